package Monitoring::SDK::Retry;

# When to try again: backoff with jitter, what `Retry-After` says, and a circuit breaker. Times are in seconds.

use v5.36;

use List::Util  qw(max min);
use Time::HiRes ();
use Time::Local ();

our $VERSION = '0.1.0';

use constant {
    FIRST_DELAY         => 0.1,
    LONGEST_DELAY       => 5,
    LONGEST_RETRY_AFTER => 3600,
    FIRST_COOLDOWN      => 0.5,
    LONGEST_COOLDOWN    => 15,
};

my %MONTH;
@MONTH{qw(jan feb mar apr may jun jul aug sep oct nov dec)} = 0 .. 11;

# Seconds of a clock that nobody sets.
sub now () { return Time::HiRes::clock_gettime(Time::HiRes::CLOCK_MONOTONIC()) }

# How long to wait after the failed attempt of this number (from 0).
sub backoff ($attempt) {
    my $bound = min(LONGEST_DELAY, FIRST_DELAY * 2**min($attempt, 16));
    return $bound / 2 + rand() * $bound / 2;
}

# What a `Retry-After` header asks for, as a number or as an HTTP date; undef when it says nothing readable.
sub retry_after ($header, $now = time) {
    return                                 if !defined $header;
    return min($1, LONGEST_RETRY_AFTER)    if $header =~ /\A\s*([0-9]{1,9})\s*\z/;
    my ($day, $month, $year, $hour, $minute, $second)
        = $header =~ /([0-9]{1,2})[ -]([A-Za-z]{3})[ -]([0-9]{4})\s+([0-9]{2}):([0-9]{2}):([0-9]{2})/ or return;
    my $number = $MONTH{ lc $month } // return;
    local ($@, $SIG{__DIE__});
    my $moment = eval { Time::Local::timegm_modern($second, $minute, $hour, $day, $number, $year) } // return;
    return min(max(0, $moment - $now), LONGEST_RETRY_AFTER);
}

# A breaker keeps a dead system from costing more than a probe now and then.
sub new ($class) { return bless { failures => 0, open_until => 0 }, $class }

sub is_closed ($self)       { return $self->{failures} == 0 }
sub allows    ($self, $now) { return $self->{failures} == 0 || $now >= $self->{open_until} }

# Close; whether it was open.
sub succeeded ($self) {
    my $was_open = $self->{failures} > 0;
    $self->{failures} = 0;
    return $was_open;
}

# Open for longer than last time, and for `least` seconds; whether it was closed.
sub failed ($self, $now, $least = 0) {
    my $was_closed = $self->{failures} == 0;
    my $pause      = min(LONGEST_COOLDOWN, FIRST_COOLDOWN * 2**min($self->{failures}, 16));
    ++$self->{failures};
    $self->{open_until} = $now + max($least // 0, $pause * (0.75 + rand() / 2));
    return $was_closed;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Retry - when to try again

=head1 DESCRIPTION

Internal: functions on time, and a circuit breaker as an object.

=head1 FUNCTIONS

=head2 now

Seconds of a monotonic clock.

=head2 backoff($attempt)

Seconds to wait after a failed attempt.

=head2 retry_after($header, $now)

Seconds that a C<Retry-After> header asks for, at most an hour; C<undef> when it can't be read.

=head1 METHODS

=head2 new

A closed breaker.

=head2 is_closed

Whether the last attempt succeeded, or there was none.

=head2 allows($now)

Whether to try.

=head2 succeeded, failed($now, $least)

Tell the breaker of an attempt; whether that changed its state.

=cut
