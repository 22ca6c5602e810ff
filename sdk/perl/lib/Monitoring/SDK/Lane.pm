package Monitoring::SDK::Lane;

# One way out: the sidecar, or one backend of direct mode, with a backlog, retries, a breaker and a folder on disk of its own.

use v5.36;

use List::Util  qw(max min sum0);
use POSIX       ();
use Time::HiRes ();

use Monitoring::SDK::JSON  ();
use Monitoring::SDK::Log   ();
use Monitoring::SDK::Retry ();
use Monitoring::SDK::Spool ();

our $VERSION = '0.1.0';

use constant {
    LONGEST_WAIT    => 10,                  # who asks for a longer pause is left alone: the events go to disk meanwhile
    EMIT_TIMEOUT    => 1,                   # the longest that a request may take within emit_*
    PROBE_TIMEOUT   => 0.25,                # the same for a probe of a system that was down
    WORTH_A_TRY     => 0.05,
    ORPHAN_INTERVAL => 15,
    FILES_AT_ONCE   => 100,
    MAX_FILE_EVENTS => 5000,
    MAX_FILE_BYTES  => 1024 * 1024 - 4096,
    LARGE_SUM       => 32 * 1024 * 1024,
};

# `queue` is told what became of events; `spool` is undef when nothing goes to disk; `letters` says whether refused events are kept
# one by one with the reason.
sub new ($class, %fields) {
    return bless {
        %fields,
        breaker      => Monitoring::SDK::Retry->new,
        backlog      => [],
        events       => 0,
        bytes        => 0,
        next_at      => 0,
        next_orphans => 0,
        progress     => {},
        damage       => {},
        counts       => { map { ($_ => 0) } qw(delivered spooled failed dropped replayed) },
    }, $class;
}

sub name     ($self) { return $self->{settings}{name} }
sub is_empty ($self) { return !@{ $self->{backlog} } }

# The counts now.
sub result ($self) {
    return { %{ $self->{counts} }, waiting => $self->{events}, error => $self->{error} };
}

# Take a parcel: a hash with `lines`, the `number` of the first, the `log` of the numbers, and of a parcel of the program's own
# events the `shipment` and the `places` there.
sub offer ($self, $parcel) {
    my ($most_events, $most_bytes) = $self->{backend}->bounds;
    $self->_append($_) for _cut($parcel, $most_events, $most_bytes);
    $self->_make_room if $self->_is_full;
    return;
}

sub _append ($self, $parcel, $is_first = 0) {
    $parcel->{bytes} //= sum0 map { 1 + length } @{ $parcel->{lines} };
    if ($is_first) { unshift @{ $self->{backlog} }, $parcel }
    else           { push @{ $self->{backlog} }, $parcel }
    $self->{events} += @{ $parcel->{lines} };
    $self->{bytes}  += $parcel->{bytes};
    return;
}

# Take the head off the backlog. It stays there while it is being sent: a signal may end the process at any time.
sub _shift ($self) {
    my $parcel = shift @{ $self->{backlog} };
    $self->{events} -= @{ $parcel->{lines} };
    $self->{bytes}  -= $parcel->{bytes};
    return $parcel;
}

# -------------------------------------------------------------------------------------------------------------- delivering

# Deliver the backlog until a moment of the clock. `is_patient`: whether to wait between attempts. What can't be delivered goes to
# disk; what waits for its next attempt, and what fits nowhere, stays.
sub work ($self, $until, $is_patient) {
    my $breaker = $self->{breaker};
    while (@{ $self->{backlog} }) {
        my $now = Monitoring::SDK::Retry::now();
        if (!$breaker->allows($now)) {
            last if $self->_put_away_all || !$is_patient || !$self->_waited($breaker->{open_until}, $until);
            next;
        }
        if ($now < $self->{next_at}) {
            last if !$is_patient || !$self->_waited($self->{next_at}, $until);
            next;
        }
        last if $until - $now < WORTH_A_TRY;
        $self->_try_head(min($until - $now, $self->_patience($is_patient)), $is_patient);
    }
    $self->{backend}->tick;
    return;
}

# Sleep until a moment; false when that is later than `until`.
sub _waited ($self, $moment, $until) {
    return 0 if $moment > $until;
    my $pause = $moment - Monitoring::SDK::Retry::now();
    Time::HiRes::sleep($pause) if $pause > 0;
    return 1;
}

# How long one call may take, in seconds.
sub _patience ($self, $is_patient) {
    my $timeout = $self->{settings}{timeout};
    return $timeout if $is_patient;
    return min($timeout, $self->{breaker}->is_closed ? EMIT_TIMEOUT : PROBE_TIMEOUT);
}

sub _try_head ($self, $timeout, $is_patient) {
    my $parcel = $self->{backlog}[0];
    my $is_probe = !$self->{breaker}->is_closed;
    my $answer   = $self->_attempt($parcel, $timeout);
    return if !@{ $self->{backlog} } || $self->{backlog}[0] != $parcel;    # a signal handler has put it away meanwhile
    my $outcome = $answer->{outcome};
    if ($outcome eq 'accepted') {
        $self->_shift;
        $self->{next_at} = 0;
        my $rest = $self->_accepted($parcel, $answer);
        return $self->_works if !$rest;
        $rest->{attempts} = $parcel->{attempts} // 0;
        $self->_append($rest, 1);
        $parcel = $rest;
    }
    elsif ($outcome eq 'too_large' && @{ $parcel->{lines} } > 1) {
        $self->_shift;
        $self->_append($_, 1) for reverse $self->_halves($parcel);
        return;
    }
    elsif ($outcome eq 'refused' || $outcome eq 'too_large') {
        $self->_shift;
        $self->_refused($parcel, $answer->{detail});
        return $self->_works;
    }
    my $attempt = $parcel->{attempts}++ // 0;
    my $pause   = max($answer->{retry_after} // 0, Monitoring::SDK::Retry::backoff($attempt));
    my $is_last = $outcome eq 'keep' || $is_probe || $attempt >= $self->{settings}{retries} || $pause > LONGEST_WAIT;
    if ($is_last || $answer->{timed_out} && !$is_patient) {
        $self->_fails($answer);
        $self->_give_up($_) for $self->_taken_all;
        return;
    }
    $self->{next_at} = Monitoring::SDK::Retry::now() + $pause;
    return;
}

sub _attempt ($self, $parcel, $timeout) {
    local ($@, $SIG{__DIE__});
    my $answer = eval { $self->{backend}->send($parcel, $timeout) };
    return $answer if $answer;
    my $error = "$@" =~ s/\s+\z//r;
    Monitoring::SDK::Log::say_it('error', "a mistake in backend '" . $self->name . "': $error");
    return { outcome => 'retry', detail => $error };
}

sub _works ($self) {
    $self->{error} = undef;
    Monitoring::SDK::Log::say_it('info', $self->_shown . ' takes events again') if $self->{breaker}->succeeded;
    return;
}

sub _fails ($self, $answer) {
    $self->{error} = $answer->{detail} // 'it asks for some events again';
    if ($self->{breaker}->failed(Monitoring::SDK::Retry::now(), $answer->{retry_after})) {
        my $where = $self->{spool} ? 'wait in ' . $self->{spool}->folder : 'wait in memory';
        Monitoring::SDK::Log::say_it('warning', $self->_shown . " does not take events ($self->{error}); they $where");
    }
    $self->{next_at} = 0;
    return;
}

sub _shown ($self) {
    return $self->{letters} ? "backend '" . $self->name . q{'} : 'the sidecar';
}

# Note what was taken and what was refused; a parcel of what is left to be sent again.
sub _accepted ($self, $parcel, $answer) {
    my $count    = @{ $parcel->{lines} };
    my @rejected = grep { $_->{index} >= 0 && $_->{index} < $count } @{ $answer->{rejected} // [] };
    my %is_gone  = map { ($_->{index} => 1) } @rejected;
    my %again    = map { ($_ => 1) } grep { $_ >= 0 && $_ < $count && !$is_gone{$_} } @{ $answer->{retry} // [] };
    if (@rejected) {
        my $is_kept = $self->{backend}->keeps_rejected;
        $self->_set_aside($parcel, \@rejected) if !$is_kept;
        my $first = $rejected[0];
        my $where = $is_kept ? ' and keeps them in quarantine' : ' for good';
        Monitoring::SDK::Log::say_it('warning',
            $self->_shown . ' refused ' . @rejected . " event(s)$where; the first: $first->{path}: $first->{error}");
        $self->{counts}{failed} += keys %is_gone;
        $self->_tell($parcel, $is_kept ? 'rejected' : 'failed', keys %is_gone);
    }
    my @taken = grep { !$is_gone{$_} && !$again{$_} } 0 .. $count - 1;
    $self->_count($parcel, scalar @taken);
    $self->_tell($parcel, 'delivered', @taken);
    return %again ? $self->_subset($parcel, sort { $a <=> $b } keys %again) : undef;
}

sub _count ($self, $parcel, $events) {
    $self->{counts}{ $parcel->{shipment} ? 'delivered' : 'replayed' } += $events;
    $self->{queue}->replayed($events) if !$parcel->{shipment};
    return;
}

# Tell the program's counts what became of the events at some places of a parcel.
sub _tell ($self, $parcel, $verdict, @places) {
    my $shipment = $parcel->{shipment} or return;
    $self->{queue}->resolved($shipment, $self->name, $verdict, [@{ $parcel->{places} }[@places]]) if @places;
    return;
}

sub _tell_all ($self, $parcel, $verdict) {
    my $shipment = $parcel->{shipment} or return;
    $self->{queue}->resolved($shipment, $self->name, $verdict, $parcel->{places});
    return;
}

# The backend will never take this parcel.
sub _refused ($self, $parcel, $why) {
    my $count = @{ $parcel->{lines} };
    Monitoring::SDK::Log::say_it('error', $self->_shown . " refused a batch of $count event(s) for good: $why");
    $self->_set_aside($parcel, [map { { index => $_, path => '', error => $why } } 0 .. $count - 1]);
    $self->{counts}{failed} += $count;
    $self->_tell_all($parcel, 'failed');
    return;
}

# Keep refused events where nobody replays them; in direct mode with the reason, in the form of the sidecar's dead letters.
sub _set_aside ($self, $parcel, $rejections) {
    my $spool = $self->{spool} or return;
    my ($number, $lines) = @{$parcel}{qw(number lines)};
    ($number, $lines) = $self->_letters($parcel, $rejections) if $self->{letters};
    local ($@, $SIG{__DIE__});
    eval { $spool->set_aside($number, $lines); 1 } or $self->_complain($@);
    return;
}

# A letter for each of the refused, and the number of the first.
sub _letters ($self, $parcel, $rejections) {
    my ($seconds, $micros) = Time::HiRes::gettimeofday();
    my $now = POSIX::strftime('%Y-%m-%dT%H:%M:%S', gmtime $seconds) . sprintf '.%03d+00:00', $micros / 1000;
    my @letters = map { $self->_letter($parcel, $_, $now) } @{$rejections};
    return ($self->{queue}->take_numbers(scalar @letters), \@letters);
}

sub _letter ($self, $parcel, $rejection, $now) {
    my ($index, $path, $error) = @{$rejection}{qw(index path error)};
    my $line = $parcel->{lines}[$index];
    my %letter = (
        dead_at  => $now,
        backend  => $self->name,
        seq      => $parcel->{number} + $index,
        event_id => $line =~ /"event_id":"([^"]*)"/ ? $1 : undef,
        reason   => length $path ? "$path: $error" : $error,
        event    => $line,
    );
    return Monitoring::SDK::JSON::value('', \%letter, 1);
}

# ------------------------------------------------------------------------------------------------------------ pieces of parcels

sub _piece ($parcel, $from, $to) {
    return {
        %{$parcel},
        lines  => [@{ $parcel->{lines} }[$from .. $to]],
        number => $parcel->{number} + $from,
        bytes  => undef,
        places => $parcel->{places} && [@{ $parcel->{places} }[$from .. $to]],
    };
}

# A parcel in pieces within these bounds, always the same ones; a single event may be larger.
sub _cut ($parcel, $most_events, $most_bytes) {
    my ($from, $size, @pieces) = (0, 0);
    my $lines = $parcel->{lines};
    for my $place (0 .. $#{$lines}) {
        my $bytes = 1 + length $lines->[$place];
        if ($place > $from && ($place - $from >= $most_events || $size + $bytes > $most_bytes)) {
            push @pieces, _piece($parcel, $from, $place - 1);
            ($from, $size) = ($place, 0);
        }
        $size += $bytes;
    }
    return ($parcel) if !@pieces;
    return (@pieces, _piece($parcel, $from, $#{$lines}));
}

sub _halves ($self, $parcel) {
    my $middle = int(@{ $parcel->{lines} } / 2);
    my @halves = (_piece($parcel, 0, $middle - 1), _piece($parcel, $middle, $#{ $parcel->{lines} }));
    return map { { %{$_}, is_half => 1, attempts => 0 } } @halves;
}

# A parcel of some places, under numbers of its own in the log of this process.
sub _subset ($self, $parcel, @places) {
    return {
        %{$parcel},
        lines  => [@{ $parcel->{lines} }[@places]],
        number => $self->{queue}->take_numbers(scalar @places),
        log    => $self->{queue}->emitter_id,
        bytes  => undef,
        places => $parcel->{places} && [@{ $parcel->{places} }[@places]],
    };
}

# -------------------------------------------------------------------------------------------------------- the last resort

# The whole backlog, joined to few parcels where neighbours have neighbouring numbers and were not tried yet.
sub _taken_all ($self) {
    my @parcels;
    while (@{ $self->{backlog} }) {
        my $parcel = $self->_shift;
        my $last   = $parcels[-1];
        if ($last && $last->{shipment} && $parcel->{shipment} && $last->{shipment} == $parcel->{shipment}
            && !$last->{attempts} && !$parcel->{attempts}
            && $last->{log} eq $parcel->{log} && $last->{number} + @{ $last->{lines} } == $parcel->{number}
            && @{ $last->{lines} } + @{ $parcel->{lines} } <= MAX_FILE_EVENTS && $last->{bytes} + $parcel->{bytes} <= MAX_FILE_BYTES)
        {
            push @{ $last->{lines} },  @{ $parcel->{lines} };
            push @{ $last->{places} }, @{ $parcel->{places} };
            $last->{bytes} += $parcel->{bytes};
            next;
        }
        push @parcels, $parcel;
    }
    return @parcels;
}

# The backend does not take the parcel now: let whoever stands in have it, and keep it for later.
sub _give_up ($self, $parcel) {
    $self->{queue}->gave_up($parcel->{shipment}, $self->name, $parcel->{places}) if $parcel->{shipment};
    $self->_append($parcel) if !$self->_put_away($parcel);
    return;
}

# Put the whole backlog on disk; whether it is all there.
sub _put_away_all ($self) {
    return 0 if !$self->{spool};
    $self->_give_up($_) for $self->_taken_all;
    return !@{ $self->{backlog} };
}

# Put a parcel on disk; whether it is out of memory.
sub _put_away ($self, $parcel) {
    my $spool = $self->{spool} or return 0;
    local ($@, $SIG{__DIE__});
    if (!eval { $spool->write_batch($parcel->{number}, $parcel->{lines}); 1 }) {
        $self->_complain($@);
        return 0;
    }
    $self->{is_complaining} = 0;
    $self->{counts}{spooled} += @{ $parcel->{lines} };
    $self->_tell_all($parcel, 'spooled');
    return 1;
}

# Say that the folder fails, once until it works again.
sub _complain ($self, $error) {
    chomp $error;
    if (!$self->{is_complaining}++) {
        my $folder = $self->{spool}->folder;
        Monitoring::SDK::Log::say_it('error', "can't write to the spool folder $folder: $error; check space and rights");
    }
    return;
}

sub _is_full ($self) {
    return $self->{events} > $self->{queue}->max_events || $self->{bytes} > LARGE_SUM;
}

# Bring the backlog back into its bounds, as `on_full` says.
sub _make_room ($self) {
    my $on_full = $self->{queue}->on_full;
    if ($on_full eq 'block') {
        while ($self->_is_full && !$self->{queue}->is_closing) {
            $self->work(Monitoring::SDK::Retry::now() + LONGEST_WAIT, 1);
            Time::HiRes::sleep(0.01) if $self->_is_full;
        }
        return;
    }
    if ($on_full eq 'spool' && $self->{spool}) {
        return if $self->_put_away_all;
    }
    while ($self->_is_full) {
        my $parcel = $self->_shift;
        my $excess = min(scalar @{ $parcel->{lines} }, max(1, $self->{events} + @{ $parcel->{lines} } - $self->{queue}->max_events));
        $self->_append(_piece($parcel, $excess, $#{ $parcel->{lines} }), 1) if $excess < @{ $parcel->{lines} };
        $self->_drop(_piece($parcel, 0, $excess - 1), $self->{is_complaining} ? 'spool_failed' : 'queue_full');
    }
    return;
}

sub _drop ($self, $parcel, $reason) {
    my $count = @{ $parcel->{lines} };
    $self->{counts}{dropped} += $count;
    $self->{queue}->dropped($self->name, $reason, $count);
    $self->_tell_all($parcel, 'dropped');
    return;
}

# The end: put on disk what is left, or drop it, counted.
sub finish ($self) {
    for my $parcel ($self->_taken_all) {
        $self->{queue}->gave_up($parcel->{shipment}, $self->name, $parcel->{places}) if $parcel->{shipment};
        next if $self->_put_away($parcel);
        $self->_drop($parcel, $self->{spool} ? 'spool_failed' : 'undeliverable');
    }
    return;
}

# Let go of connections and locks.
sub close ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    $self->{backend}->close;
    $self->{spool}->close_owner if $self->{spool};
    return;
}

# Let go, in a forked child, of what is the parent's.
sub forget ($self) {
    $self->{backend}->forget;
    $self->{spool}->forget if $self->{spool};
    return;
}

# ------------------------------------------------------------------------------------------------------ what waits on disk

# Deliver files until one fails or the time is up, at most so many.
sub replay ($self, $until, $is_patient, $most = FILES_AT_ONCE) {
    my $spool = $self->{spool} or return;
    my $now   = Monitoring::SDK::Retry::now();
    return if @{ $self->{backlog} } || !$self->{breaker}->allows($now);
    my @waiting = $spool->own;
    if ($now >= $self->{next_orphans}) {
        $self->{next_orphans} = $now + ORPHAN_INTERVAL;
        unshift @waiting, $spool->orphans;
    }
    my $done = 0;
    for my $name (@waiting) {
        my $left = $until - Monitoring::SDK::Retry::now();
        if ($done == $most || $left < WORTH_A_TRY) {
            $self->{next_orphans} = $now;
            return;
        }
        my $claim = $spool->claim($name) or next;
        ++$done;
        local ($@, $SIG{__DIE__});
        my $went_on = eval { $self->_replay_file($claim, min($left, $self->_patience($is_patient))) };
        if ($@) {    # the rest of the file could not be written
            $self->_complain($@);
            $spool->give_back($claim);
        }
        return if !$went_on;
    }
    return;
}

# Deliver one file; whether the backend took it or will never do.
sub _replay_file ($self, $claim, $timeout) {
    my $spool = $self->{spool};
    my $lines = $self->{letters} ? $self->_without_damage($claim) : $claim->{lines};
    my @waiting = @{$lines} ? _cut({ %{$claim}{qw(number log)}, lines => $lines }, $self->{backend}->bounds) : ();
    splice @waiting, 0, $self->{progress}{ $claim->{name} } // 0;
    while (my $parcel = shift @waiting) {
        my $answer  = $self->_attempt($parcel, $timeout);
        my $outcome = $answer->{outcome};
        if ($outcome eq 'too_large' && @{ $parcel->{lines} } > 1) {
            unshift @waiting, $self->_halves($parcel);
            next;
        }
        if ($outcome eq 'refused' || $outcome eq 'too_large') {
            $self->_works;
            if ($self->{letters}) {
                $self->_refused($parcel, $answer->{detail});
                next;
            }
            Monitoring::SDK::Log::say_it('error', "the sidecar refused $claim->{name} for good: $answer->{detail}");
            $spool->refuse($claim);
            $self->{queue}->failed_on_replay(sum0 map { scalar @{ $_->{lines} } } $parcel, @waiting);
            return 1;
        }
        if ($outcome ne 'accepted') {
            $self->_fails($answer);
            $spool->give_back($claim);
            return 0;
        }
        my $rest = $self->_accepted($parcel, $answer);
        $self->_works;
        $spool->write_batch($rest->{number}, $rest->{lines}) if $rest;
        ++$self->{progress}{ $claim->{name} } if !$parcel->{is_half};
    }
    delete @{$_}{ $claim->{name} } for @{$self}{qw(progress damage)};
    $spool->done($claim);
    return 1;
}

# The lines of a file that are events. Others, which no backend could take, are kept aside when the file is first met. Dies when they
# can't be written.
sub _without_damage ($self, $claim) {
    my ($name, $lines) = @{$claim}{qw(name lines)};
    my $is_damaged = $self->{damage}{$name};
    if (!$is_damaged) {
        my @places = grep { !_is_object($lines->[$_]) } 0 .. $#{$lines};
        $self->_set_damage_aside($claim, @places) if @places;
        $is_damaged = $self->{damage}{$name} = { map { ($_ => 1) } @places };
    }
    return $lines if !%{$is_damaged};
    return [@{$lines}[grep { !$is_damaged->{$_} } 0 .. $#{$lines}]];
}

sub _is_object ($line) {
    local ($@, $SIG{__DIE__});
    return ref eval { Monitoring::SDK::JSON::decode($line) } eq 'HASH';
}

sub _set_damage_aside ($self, $claim, @places) {
    my @rejections = map { { index => $_, path => '', error => 'the spool file is damaged here' } } @places;
    $self->{spool}->set_aside($self->_letters($claim, \@rejections));
    my ($count, $folder) = (scalar @places, $self->{spool}->folder);
    Monitoring::SDK::Log::say_it('warning', "$count line(s) of $folder/$claim->{name} are damaged; they are kept as *.refused beside it");
    $self->{counts}{failed} += $count;
    $self->{queue}->failed_on_replay($count);
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Lane - one way out

=head1 DESCRIPTION

Internal. A lane shares nothing with its neighbours: what its backend can't take in time goes to the lane's own folder, and from
there to this backend alone. It has no thread: L<Monitoring::SDK::Queue> has it work within the calls of the program.

=head1 METHODS

=head2 new(%fields)

A lane with C<settings>, C<backend>, C<queue>, C<spool> and C<letters>.

=head2 name, is_empty, result

Its name; whether nothing waits in memory; its counts.

=head2 offer(\%parcel)

Take events.

=head2 work($until, $is_patient)

Deliver what waits in memory until a moment of the monotonic clock.

=head2 replay($until, $is_patient, $most)

Deliver what waits on disk, at most so many files.

=head2 finish

Put on disk what is left in memory, or drop it.

=head2 close, forget

Let go of connections and locks, at the end and in a forked child.

=cut
