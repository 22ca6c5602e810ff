#!/usr/bin/env perl

# Inspects the wafers of a lot, each in a run of its own inside the lot's, in parallel processes; one of them fails.
#
#     perl wafer-inspection.pl LOT [WAFERS]

use v5.36;

use Monitoring::SDK qw(monitored_context);

my ($lot, $wafers) = ($ARGV[0] // 'L1', $ARGV[1] // 4);
Monitoring::SDK::initialize(defined $ENV{MONITORING_CONFIG} ? undef : { sdk => { app => { name => 'inspection', site_id => 'fab1' } } });

sub inspect ($wafer) {
    return monitored_context('inspect', { wafer => $wafer }, sub ($run) {
        my $particles = ($wafer * 37) % 11;
        $run->metric(particles => $particles);
        die "wafer $wafer has $particles particles\n" if $particles > 7;
        return $particles;
    });
}

my $failed = 0;
monitored_context('lot', { lot => $lot }, sub ($run) {
    my @children;
    for my $wafer (1 .. $wafers) {
        my $child = fork // die "no fork: $!\n";
        if (!$child) { exit(eval { inspect($wafer); 1 } ? 0 : 1) }    # a child is an emitter of its own
        push @children, $child;
    }
    for my $number (1 .. @children) {
        waitpid $children[$number - 1], 0;
        ++$failed if $?;
        $run->progress($number / @children);
    }
    $run->set(failed => $failed);
});
Monitoring::SDK::close();
say "$wafers wafers, $failed failed";
