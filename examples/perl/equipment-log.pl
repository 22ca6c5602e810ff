#!/usr/bin/env perl

# Reads the log of a tool from a file or standard input and reports every line: what the tool measured, in which state it is, what went
# wrong. Lines look like
#
#     2026-01-31T12:00:00Z E7 STATE standby productive
#     2026-01-31T12:00:01Z E7 DATA lot=L1 temperature=21.5 pressure=3.2
#     2026-01-31T12:00:02Z E7 ALARM 4711 no plasma in chamber B
#
#     perl equipment-log.pl etcher.log

use v5.36;

use Monitoring::SDK ();

my %kind = (
    STATE => sub ($tool, $text) {
        my ($from, $to) = split ' ', $text;
        return { kind => 'state', name => $tool, state => { from => $from, to => $to } };
    },
    DATA => sub ($tool, $text) {
        my %values = map { split /=/, $_, 2 } split ' ', $text;
        my $lot    = delete $values{lot};
        my %metrics = map { ($_ => 0 + $values{$_}) } keys %values;    # text that was read becomes a number
        return { kind => 'metric', name => 'data', metrics => \%metrics, defined $lot ? (entities => { lot => $lot }) : () };
    },
    ALARM => sub ($tool, $text) {
        my ($code, $message) = split ' ', $text, 2;
        return { kind => 'log', name => 'alarm', severity => 'error', message => $message, attributes => { code => $code } };
    },
);

Monitoring::SDK::initialize(defined $ENV{MONITORING_CONFIG} ? undef : { sdk => { app => { name => 'log-reformatter', site_id => 'fab1' } } });
my ($lines, $skipped) = (0, 0);
while (my $line = <<>>) {
    my ($timestamp, $tool, $type, $text) = $line =~ /\A(\S+Z) (\S+) ([A-Z]+) (.*)$/;
    my $event = defined $type && $kind{$type} ? eval { $kind{$type}->($tool, $text) } : undef;
    if ($event) {
        $event->{timestamp} = $timestamp;
        $event->{entities}{tool} = $tool;
        if (eval { Monitoring::SDK::emit_event($event); 1 }) { ++$lines; next }
        warn "line $.: $@";
    }
    ++$skipped;
}
my $result = Monitoring::SDK::flush(10);
say "$lines lines reported, $skipped skipped", $result ? '' : '; not all are safe';
