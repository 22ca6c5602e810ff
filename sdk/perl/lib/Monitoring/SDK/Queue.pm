package Monitoring::SDK::Queue;

# The buffer between the program and the lanes, and the counts of what became of every event.

use v5.36;

use List::Util   qw(all max min sum0);
use Scalar::Util qw(weaken);

use Monitoring::SDK::Backends ();
use Monitoring::SDK::Lane     ();
use Monitoring::SDK::Retry    ();
use Monitoring::SDK::Spool    ();

our $VERSION = '0.1.0';

use constant {
    EMIT_BUDGET   => 1,           # the longest that the network may hold up emit_*, in seconds
    REPLAY_BUDGET => 2,
    LARGEST_BATCH => 1024 * 1024 - 4096,
};

my %WORSE = (delivered => 0, spooled => 1, rejected => 2, failed => 3, dropped => 4);
my @COUNT = qw(sent spooled rejected failed dropped);

sub new ($class, $settings, $emitter_id) {
    my $queue = $settings->{queue};
    my $self  = bless {
        settings   => $settings,
        emitter_id => $emitter_id,
        buffer     => [],
        bytes      => 0,
        first      => 1,
        oldest     => 0,
        size       => min($queue->{batch_size}, $queue->{max_events}),
        interval   => $queue->{flush_interval},
        numbers    => 1,
        is_direct  => $settings->{mode} eq 'direct',
        under_way  => 0,
        counts     => { map { ($_ => 0) } @COUNT, 'replayed' },
        emitted    => 0,
        drops      => {},
        unreported => {},
        watches    => [],
    }, $class;
    my @backends
        = $self->{is_direct}
        ? @{ $settings->{backends} }
        : { name => 'sidecar', type => 'sidecar', priority => 1, config => {}, %{ $settings->{sidecar} }{qw(timeout retries)} };
    $self->{lanes} = [map { $self->_lane($_) } @backends];
    return $self;
}

sub _lane ($self, $entry) {
    my ($sidecar, $app) = @{ $self->{settings} }{qw(sidecar app)};
    my $folder = $sidecar->{spool_dir};
    $folder = Monitoring::SDK::Spool::backend_folder($folder, $app, $entry->{name}) if $self->{is_direct};
    my $lane = Monitoring::SDK::Lane->new(
        settings => $entry,
        backend  => Monitoring::SDK::Backends::make($entry, $sidecar, $self->{emitter_id}),
        queue    => $self,
        spool    => $sidecar->{enable_spooling} ? Monitoring::SDK::Spool->new($folder, $self->{emitter_id}) : undef,
        letters  => $self->{is_direct},
    );
    weaken $lane->{queue};
    $lane->{primaries} = [map { $_->{name} } grep { $_->{priority} < $entry->{priority} } @{ $self->{settings}{backends} }]
        if $entry->{fallback};
    return $lane;
}

sub emitter_id ($self) { return $self->{emitter_id} }
sub max_events ($self) { return $self->{settings}{queue}{max_events} }
sub on_full    ($self) { return $self->{settings}{queue}{on_full} }
sub is_closing ($self) { return $self->{is_closing} }

# The next numbers in the order of delivery; the first of them.
sub take_numbers ($self, $count) {
    my $first = $self->{numbers};
    $self->{numbers} += $count;
    return $first;
}

# Take an event of this number as a line of JSON; `now` is in seconds of the wall clock. Whether something is to be sent.
sub put ($self, $seq, $line, $now) {
    $self->_ship if $self->{bytes} + length($line) >= LARGEST_BATCH && @{ $self->{buffer} };
    my $buffer = $self->{buffer};
    if (!@{$buffer}) { @{$self}{qw(first oldest bytes)} = ($seq, $now, 0) }
    push @{$buffer}, $line;
    ++$self->{emitted};
    $self->{bytes} += 1 + length $line;
    return @{$buffer} >= $self->{size} || $now - $self->{oldest} >= $self->{interval} || $now < $self->{oldest};
}

# Whether something has waited long enough, in memory or for its next attempt.
sub is_due ($self, $now) {
    return @{ $self->{buffer} } && $now - $self->{oldest} >= $self->{interval} || !all { $_->is_empty } @{ $self->{lanes} };
}

# Hand what is in the buffer to the lanes.
sub _ship ($self) {
    my $lines = $self->{buffer};
    return if !@{$lines};
    my $first = $self->{first};
    @{$self}{qw(buffer bytes)} = ([], 0);
    my $count    = @{$lines};
    my $number   = $self->{is_direct} ? $self->take_numbers($count) : $first;
    my @always   = grep { !$_->{settings}{fallback} } @{ $self->{lanes} };
    my $shipment = { count => $count, left => $count * @always, worst => [(0) x $count], lines => $lines, number => $number };
    $self->{under_way} += $count;
    my @watches = grep { defined && $_->{from} < $first + $count && $_->{to} >= $first } @{ $self->{watches} };
    $shipment->{watches} = [map { [$_, $_->{from} - $first, $_->{to} - $first] } @watches] if @watches;
    for my $lane (@always) {
        $lane->offer({
            lines => [@{$lines}], number => $number, log => $self->{emitter_id}, shipment => $shipment, places => [0 .. $count - 1],
        });
    }
    return;
}

# Have the lanes work within a call of the program that must not take long.
sub step ($self) {
    $self->_ship;
    my $until = Monitoring::SDK::Retry::now() + EMIT_BUDGET;
    for my $lane (@{ $self->{lanes} }) { $lane->work($until, 0) }
    for my $lane (@{ $self->{lanes} }) { $lane->replay($until, 0, 1) }
    return;
}

# Deliver everything, or put it on disk, within so many seconds; whether nothing is left in memory and nothing was lost.
sub flush ($self, $timeout) {
    my $lost  = sum0 values %{ $self->{drops} };
    my $start = Monitoring::SDK::Retry::now();
    my $until = $start + $timeout;
    $self->_ship;
    for my $lane (@{ $self->{lanes} }) { $lane->work($until, 1) }
    my $replay_until = min($until, Monitoring::SDK::Retry::now() + REPLAY_BUDGET);
    for my $lane (@{ $self->{lanes} }) { $lane->replay($replay_until, 1) }
    return $self->queued == 0 && $lost == sum0 values %{ $self->{drops} };
}

# Deliver what can be delivered in so many seconds, and put the rest on disk.
sub close ($self, $grace) {    ## no critic (ProhibitBuiltinHomonyms)
    $self->{is_closing} = 1;
    my $until = Monitoring::SDK::Retry::now() + $grace;
    $self->_ship;
    for my $lane (@{ $self->{lanes} }) { $lane->work($until, 1) }
    for my $lane (@{ $self->{lanes} }) { $lane->finish }
    for my $lane (@{ $self->{lanes} }) { $lane->close }
    return;
}

# Let go, in a forked child, of what is the parent's.
sub forget ($self) {
    $_->forget for @{ $self->{lanes} };
    return;
}

# ----------------------------------------------------------------------------------------------------------- told by lanes

# A backend is done with the events at these places of a shipment.
sub resolved ($self, $shipment, $backend, $verdict, $places) {
    my $worst = $shipment->{worst};
    if (my $rank = $WORSE{$verdict}) {
        for my $place (@{$places}) { $worst->[$place] = $rank if $worst->[$place] < $rank }
    }
    for (@{ $shipment->{watches} // [] }) {
        my ($watch, $from, $to) = @{$_};
        my $heard = grep { $_ >= $from && $_ <= $to } @{$places};
        $watch->{heard}{$backend}{$verdict} += $heard if $heard;
    }
    $shipment->{left} -= @{$places};
    return if $shipment->{left} > 0;
    ++$self->{counts}{ $COUNT[$_] } for @{$worst};
    $self->{under_way} -= $shipment->{count};
    return;
}

# A backend could not take these events now: whoever stands in for it, and for all others that failed, gets them.
sub gave_up ($self, $shipment, $backend, $places) {
    my @standbys = grep { $_->{settings}{fallback} } @{ $self->{lanes} } or return;
    $shipment->{failed}{$backend}{$_} = 1 for @{$places};
    for my $lane (@standbys) {
        my $offered = $shipment->{offered}{ $lane->name } //= {};
        my @lost = grep {
            my $place = $_;
            !$offered->{$place} && all { $shipment->{failed}{$_}{$place} } @{ $lane->{primaries} }
        } @{$places};
        next if !@lost;
        $offered->{$_} = 1 for @lost;
        $shipment->{left} += @lost;
        my $is_whole = @lost == $shipment->{count};
        $lane->offer({
            lines    => [@{ $shipment->{lines} }[@lost]],
            number   => $is_whole ? $shipment->{number} : $self->take_numbers(scalar @lost),
            log      => $self->{emitter_id},
            shipment => $shipment,
            places   => [@lost],
        });
    }
    return;
}

sub replayed ($self, $events) {
    $self->{counts}{replayed} += $events;
    return;
}

sub failed_on_replay ($self, $events) {
    $self->{counts}{failed} += $events;
    return;
}

sub dropped ($self, $backend, $reason, $events) {
    $self->{drops}{$reason}      += $events;
    $self->{unreported}{$reason} += $events;
    $self->{unreported_of}{$backend}{$reason} += $events;
    return;
}

# The drops since the last call, by reason, and in direct mode by backend and reason.
sub take_unreported ($self) {
    my ($drops, $of) = delete @{$self}{qw(unreported unreported_of)};
    $self->{unreported} = {};
    return ($drops, $self->{is_direct} ? $of : undef);
}

sub has_unreported ($self) { return !!%{ $self->{unreported} } }

# ----------------------------------------------------------------------------------------------------------------- counts

sub queued ($self) { return @{ $self->{buffer} } + $self->{under_way} }

# Everything counted.
sub stats ($self) {
    return {
        emitted           => $self->{emitted},
        %{ $self->{counts} },
        queued            => $self->queued,
        dropped_by_reason => { %{ $self->{drops} } },
        backends          => $self->backends,
    };
}

# The results of the lanes by name.
sub backends ($self) {
    return { map { ($_->name => $_->result) } @{ $self->{lanes} } };
}

# Watch what becomes of the events from one number to another.
sub watch ($self, $watch) {
    @{ $self->{watches} } = grep { defined } @{ $self->{watches} };
    push @{ $self->{watches} }, $watch;
    weaken $_ for @{ $self->{watches} };
    return;
}

sub always ($self) { return map { $_->name } grep { !$_->{settings}{fallback} } @{ $self->{lanes} } }

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Queue - between the program and the lanes

=head1 DESCRIPTION

Internal. Perl has no worker thread: events are buffered, and the lanes work within the calls of the program, when a batch is
full, when the oldest event is old enough, on C<flush> and on C<close>.

=head1 METHODS

=head2 new(\%settings, $emitter_id)

A queue with its lanes.

=head2 put($seq, $line, $now)

Take an event; whether something is to be sent.

=head2 is_due($now)

Whether something has waited long enough.

=head2 step

Have the lanes work for a short time.

=head2 flush($timeout)

Deliver everything or put it on disk; whether that came to pass in time.

=head2 close($grace)

Deliver what can be delivered in so many seconds, and put the rest on disk.

=head2 forget

In a forked child: let go of what is the parent's.

=head2 take_numbers($count)

The next numbers in the order of delivery.

=head2 resolved, gave_up, replayed, failed_on_replay, dropped

Told by lanes.

=head2 take_unreported, has_unreported

Drops that no event has reported yet.

=head2 stats, backends, queued, watch, always

Counts; results by backend; events in memory; watching some events; the names of backends that get every event.

=head2 emitter_id, max_events, on_full, is_closing

What it was made with; whether it is closing.

=cut
