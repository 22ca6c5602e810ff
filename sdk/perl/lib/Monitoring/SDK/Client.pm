package Monitoring::SDK::Client;

# One process's SDK: stamps events, buffers them, and has them delivered.

use v5.36;

use Time::HiRes qw(gettimeofday);

use Monitoring::SDK::Error  ();
use Monitoring::SDK::Event  ();
use Monitoring::SDK::Ids    ();
use Monitoring::SDK::Log    ();
use Monitoring::SDK::Queue  ();
use Monitoring::SDK::Result ();

our $VERSION = '0.1.0';

use constant {
    CLOSE_GRACE => 1,      # how long close goes on sending, in seconds; what is left then goes to disk
    HEAD_BYTES  => 220,    # what stands before an event's own fields, at most
};

sub new ($class, $settings) {
    my $self = bless { settings => $settings, origin => Monitoring::SDK::Event::origin($settings->{app}) }, $class;
    $self->_begin;
    return $self;
}

sub _begin ($self) {
    $self->{pid}        = $$;
    $self->{seq}        = 0;
    $self->{second}     = -1;
    $self->{millis}     = -1;
    $self->{tail}       = Monitoring::SDK::Ids::tail();
    $self->{emitter_id} = Monitoring::SDK::Ids::uuid7();
    $self->{queue}      = Monitoring::SDK::Queue->new($self->{settings}, $self->{emitter_id});
    return;
}

# Begin anew after a fork: what the parent had queued is the parent's.
sub begin_in_child ($self) {
    my $inherited = $self->{queue};
    srand;
    $self->_begin;
    $inherited->forget;
    return;
}

# Take one event, of a run if any; its id. Dies for an invalid one.
sub emit ($self, $event, $run) {
    my ($fields, $given_id, $has_time) = Monitoring::SDK::Event::encode($event, $self->{origin}, $run);
    _too_large() if length($fields) + HEAD_BYTES > Monitoring::SDK::Event::MAX_EVENT_BYTES;
    my ($id, $is_due) = $self->_put($fields, $given_id, $has_time);
    $self->_step if $is_due;
    return $id;
}

sub _too_large () {
    my $most = Monitoring::SDK::Event::MAX_EVENT_BYTES;
    Monitoring::SDK::JSON::refuse('', "the event has more than $most bytes; keep large data elsewhere and send its address");
    return;
}

# Take all of the events, or none when one of them is invalid.
sub emit_all ($self, $events, $run) {
    my @prepared;
    for my $event (@{$events}) {
        local $SIG{__DIE__};
        my @fields = eval {
            my @encoded = Monitoring::SDK::Event::encode($event, $self->{origin}, $run);
            _too_large() if length($encoded[0]) + HEAD_BYTES > Monitoring::SDK::Event::MAX_EVENT_BYTES;
            @encoded;
        };
        if (!@fields) {
            my $error = $@;
            die $error if !ref $error || !$error->isa('Monitoring::SDK::Error::InvalidEvent');    ## no critic (RequireCarping)
            my $place = '[' . @prepared . ']';
            my $path = length $error->path ? "$place." . $error->path : $place;
            Monitoring::SDK::Error::InvalidEvent->throw(path => $path, error => $error->error);
        }
        push @prepared, \@fields;
    }
    my @ids;
    my $result = Monitoring::SDK::Result->of_batch(\@ids, $self->{queue});
    $result->watch($self->{seq} + 1, $self->{seq} + @prepared);
    for my $fields (@prepared) {
        my ($id, $is_due) = $self->_put(@{$fields});
        $self->_step if $is_due;
        push @ids, $id;
    }
    return $result;
}

# Stamp an event and put it into the queue; its id, and whether something is to be sent.
sub _put ($self, $fields, $given_id = undef, $has_time = 0) {
    my ($seconds, $micros) = gettimeofday;
    my $seq = ++$self->{seq};
    my $id = $given_id;
    if (!defined $id) {
        my $millis = $seconds * 1000 + int($micros / 1000);
        $self->_new_millisecond($millis) if $millis != $self->{millis};
        $id = $self->{id_head} . sprintf '%08x', $seq & 0xffffffff;
    }
    my $time = '';
    if (!$has_time) {
        $self->_new_second($seconds) if $seconds != $self->{second};
        $time = sprintf '"timestamp":"%s.%06dZ",', $self->{second_text}, $micros;
    }
    my $line = defined $given_id ? '{' : qq({"event_id":"$id",);
    $line .= qq($time"emitter":{"id":"$self->{emitter_id}","seq":$seq},$fields});
    utf8::downgrade($line);
    return ($id, $self->{queue}->put($seq, $line, $seconds + $micros / 1e6));
}

sub _new_millisecond ($self, $millis) {
    $self->{millis}  = $millis;
    $self->{id_head} = Monitoring::SDK::Ids::head($millis) . $self->{tail};
    return;
}

sub _new_second ($self, $seconds) {
    my @utc = gmtime $seconds;
    $self->{second}      = $seconds;
    $self->{second_text} = sprintf '%04d-%02d-%02dT%02d:%02d:%02d', $utc[5] + 1900, $utc[4] + 1, @utc[3, 2, 1, 0];
    return;
}

# Deliver what is due. The program's own $@, $! and $? stay as they are.
sub _step ($self) {
    return if $self->{is_busy};    # a signal handler that emits while a delivery is under way
    local $self->{is_busy} = 1;
    local ($@, $!, $?, $SIG{__DIE__});
    $self->_report_drops;
    $self->{queue}->step;
    return;
}

# Tell of what was lost by an event of its own, so that the gap in the numbers is explained.
sub _report_drops ($self) {
    my $queue = $self->{queue};
    return if !$queue->has_unreported;
    my ($drops, $of) = $queue->take_unreported;
    my $count = 0;
    $count += $_ for values %{$drops};
    my $where = $of ? join ', ', sort keys %{$of} : 'the sidecar';
    my %event = (
        kind     => 'metric',
        name     => 'sdk.dropped',
        severity => 'warning',
        message  => "$count event(s) of this process were lost before they reached $where",
        metrics  => $drops,
        $of ? (attributes => { backends => $of }) : (),
    );
    $self->_put(Monitoring::SDK::Event::encode(\%event, $self->{origin}, undef));
    return;
}

# Deliver everything, or put it on disk, within so many seconds.
sub flush ($self, $timeout) {
    my $is_safe = 0;
    if (!$self->{is_busy}) {
        local $self->{is_busy} = 1;
        local ($@, $!, $?, $SIG{__DIE__});
        $self->_report_drops;
        $is_safe = $self->{queue}->flush($timeout);
    }
    return Monitoring::SDK::Result->of_flush($is_safe, $self->{queue}->backends);
}

# Deliver what has waited long enough.
sub tick ($self) {
    my ($seconds, $micros) = gettimeofday;
    $self->_step if $self->{queue}->is_due($seconds + $micros / 1e6);
    return;
}

sub stats ($self) { return $self->{queue}->stats }

# Deliver what can be delivered soon, and put the rest on disk. Calling it twice does no harm.
sub close ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    local ($@, $!, $?, $SIG{__DIE__});
    $self->_report_drops;
    $self->{queue}->close(CLOSE_GRACE);
    return if $self->{is_closed}++;
    my $stats  = $self->stats;
    my $counts = join ' ', map {"$_=$stats->{$_}"} qw(emitted sent spooled replayed rejected failed dropped queued);
    Monitoring::SDK::Log::say_it($stats->{dropped} || $stats->{failed} ? 'warning' : 'info', "closed; $counts");
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Client - one process's SDK

=head1 DESCRIPTION

Internal; L<Monitoring::SDK> holds one.

=head1 METHODS

=head2 new(\%settings)

A client with its queue.

=head2 begin_in_child

Begin anew after a fork.

=head2 emit(\%event, $run), emit_all(\@events, $run)

Take one event, or several.

=head2 flush($timeout), tick, close

Deliver: everything, what is due, what can be delivered soon.

=head2 stats

The counts.

=cut
