#!/usr/bin/env perl

# The Perl side of emit_cost_perl.py: URL of a sidecar that is up, URL of one that is down, calls to time, events for memory.

use v5.36;

use File::Temp  qw(tempdir);
use IO::Handle  ();
use JSON::PP    ();
use JSON::XS    ();
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Monitoring::SDK ();

my ($up, $down, $calls, $events) = @ARGV;
my $folder = tempdir(CLEANUP => 1);
$Monitoring::SDK::Log::LEVEL = 'error';

sub event ($number) {
    return {
        kind => 'metric', name => 'chuck', entities => { tool => 'E7', lot => 'L1' },
        metrics => { temperature => 21.5, pressure => 3 + $number % 7 },
    };
}

sub timed ($times, $do) {
    my @took;
    for my $number (1 .. $times) {
        my $event   = event($number);
        my $started = clock_gettime(CLOCK_MONOTONIC);
        $do->($event);
        push @took, clock_gettime(CLOCK_MONOTONIC) - $started;
    }
    @took = sort { $a <=> $b } @took;
    my ($median, $p99, $longest) = map { 0 + sprintf '%.2f', 1e6 * $_ } @took[$#took / 2, $#took * 0.99, -1];
    return { median_us => $median, p99_us => $p99, longest_us => $longest };
}

sub rss () {
    open my $in, '<', '/proc/self/status' or die "no /proc: $!\n";
    my ($kilobytes) = map { /^VmRSS:\s+(\d+)/ ? $1 : () } <$in>;
    return $kilobytes;
}

sub initialize ($url) {
    my %sdk = (app => { name => 'bench', site_id => 'fab1' }, sidecar => { url => $url, spool_dir => "$folder/spool" });
    Monitoring::SDK::initialize({ sdk => \%sdk });
    return;
}

my %result = (calls => 0 + $calls);
for (['up', $up], ['down', $down]) {
    my ($name, $url) = @{$_};
    initialize($url);
    timed($calls / 10, \&Monitoring::SDK::emit_event);
    $result{"sidecar_$name"} = timed($calls, \&Monitoring::SDK::emit_event);
    Monitoring::SDK::close();
    unlink glob "$folder/spool/*";
}
open my $out, '>>', "$folder/bare.jsonl" or die "can't write: $!\n";
$out->autoflush(1);
for (['json_xs', JSON::XS->new->utf8], ['json_pp', JSON::PP->new->utf8]) {
    my ($name, $json) = @{$_};
    $result{"bare_$name"} = timed($calls / 4, sub ($event) { print {$out} $json->encode($event), "\n" });
}
$result{ratio_to_bare_json_xs} = 0 + sprintf '%.2f', $result{sidecar_up}{median_us} / $result{bare_json_xs}{median_us};
$result{p99_down_to_up}        = 0 + sprintf '%.2f', $result{sidecar_down}{p99_us} / $result{sidecar_up}{p99_us};

initialize($up);
my $early = 0;
for my $number (1 .. $events) {
    Monitoring::SDK::emit_event(event($number));
    $early = rss() if $number == int $events / 10;
}
$result{memory} = { events => 0 + $events, rss_kb_after_a_tenth => 0 + $early, rss_kb_after_all => 0 + rss() };
Monitoring::SDK::close();
print JSON::PP->new->canonical->pretty->encode(\%result);
