package Monitoring::SDK::Ids;

# UUIDs of version 7 (RFC 9562): the millisecond, random bits once a source, then a number that counts.

use v5.36;

use Time::HiRes ();

our $VERSION = '0.1.0';

# Random bytes from the system.
sub random_bytes ($count) {
    my $bytes = '';
    if (open my $in, '<:raw', '/dev/urandom') {
        sysread $in, $bytes, $count;
        close $in;
    }
    $bytes .= chr int rand 256 while length $bytes < $count;
    return ($bytes =~ /\A(.*)\z/s)[0];    # under -T what is read is tainted, and ids become names of files
}

# The middle of all ids of one source.
sub tail () {
    my $digits  = unpack 'H*', random_bytes(6);
    my $variant = substr '89ab', hex(substr $digits, 3, 1) & 3, 1;
    return '-7' . substr($digits, 0, 3) . "-$variant" . substr($digits, 4, 3) . '-' . substr($digits, 7, 4);
}

# The beginning of all ids of one millisecond.
sub head ($millis) {
    my $digits = sprintf '%012x', $millis;
    return substr($digits, 0, 8) . '-' . substr $digits, 8;
}

# A single id of this moment.
sub uuid7 () {
    return head(int(Time::HiRes::time() * 1000)) . tail() . unpack 'H*', random_bytes(4);
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Ids - makes event ids

=head1 DESCRIPTION

Internal.

=head1 FUNCTIONS

=head2 uuid7

A UUIDv7 of this moment.

=head2 head($millis), tail

The parts of an id that stay the same for a millisecond, and for a process.

=head2 random_bytes($count)

Random bytes from the system.

=cut
