package Monitoring::SDK::Partition;

# The folder of an event, from its timestamp in UTC: `date=2026-07-01/hour=09`.

use v5.36;

use Time::Local ();

our $VERSION = '0.1.0';

sub moment_of ($line) {
    my ($text) = $line =~ /"timestamp":"([0-9]{4}-[^"]*)"/ or die "an event without a timestamp\n";
    my ($year, $month, $day, $hour, $minute, $second, $fraction, $sign, $hours, $minutes)
        = $text =~ /\A(\d{4})-(\d\d)-(\d\d).(\d\d):(\d\d):(\d\d)([.]\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))\z/a
        or die "an event with the timestamp $text\n";
    my $seconds = Time::Local::timegm_modern($second, $minute, $hour, $day, $month - 1, $year);
    $seconds -= ($sign eq '-' ? -60 : 60) * ($hours * 60 + $minutes) if defined $sign;
    return ($seconds, $fraction // '', $text);
}

sub partition_of ($line) {
    return "date=$1/hour=$2" if $line =~ /\A(?:\{"event_id":"[^"]*",|\{)"timestamp":"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}):[^"]*Z"/;
    my ($seconds) = moment_of($line);
    my @utc = gmtime $seconds;
    return sprintf 'date=%04d-%02d-%02d/hour=%02d', $utc[5] + 1900, $utc[4] + 1, @utc[3, 2];
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Partition - the hour of an event

=head1 DESCRIPTION

Internal.

=head1 FUNCTIONS

=head2 partition_of($line)

The folder of an event's hour: C<date=2026-07-01/hour=09>.

=head2 moment_of($line)

An event's moment in seconds since 1970, its fraction as text, and the timestamp as it stands there.

=cut
