package Monitoring::SDK;

# Reports what a program does to TrackMate: initialize, emit_event, emit_batch, monitored_context, flush, stats, close.

use v5.36;

use Exporter qw(import);

use Monitoring::SDK::Client  ();
use Monitoring::SDK::Config  ();
use Monitoring::SDK::Context ();
use Monitoring::SDK::Error   ();
use Monitoring::SDK::JSON    ();

our $VERSION   = '0.1.0';
our @EXPORT_OK = qw(initialize emit_event emit_batch monitored_context current_run flush tick stats);

use constant FLUSH_TIMEOUT => 5;

my ($client, $retired);

Monitoring::SDK::Context->use_client(sub { _client() });

sub _client () {
    if (!$client) {
        my $when = $retired ? 'was called after close' : 'has not been called';
        Monitoring::SDK::Error::NotInitialized->throw(message => "Monitoring::SDK::initialize $when; call it first");
    }
    $client->begin_in_child if $client->{pid} != $$;
    return $client;
}

sub initialize ($config = undef) {
    if ($client) {
        Monitoring::SDK::Error::NotInitialized->throw(message => 'Monitoring::SDK is initialized already; call close first');
    }
    my $settings = Monitoring::SDK::Config::load($config);
    $client = Monitoring::SDK::Client->new($settings);
    _watch($_) for qw(TERM INT HUP);
    return;
}

sub emit_event ($event) {
    return ($client && $client->{pid} == $$ ? $client : _client())->emit($event, Monitoring::SDK::Context->current);
}

sub emit_batch ($events) {
    my $sdk = _client();
    if (ref $events ne 'ARRAY') {
        my $kind = Monitoring::SDK::JSON::kind_of($events);
        Monitoring::SDK::JSON::refuse('', "expected a reference to an array of events, got $kind");
    }
    my $result = $sdk->emit_all($events, Monitoring::SDK::Context->current);
    return wantarray ? $result->event_ids : $result;
}

sub monitored_context ($name, @rest) {
    my $code = @rest && ref $rest[-1] eq 'CODE' ? pop @rest : undef;
    my $run  = Monitoring::SDK::Context->start($name, @rest);
    return $code ? $run->call($code) : $run;
}

sub current_run () { return Monitoring::SDK::Context->current }

sub flush ($timeout = FLUSH_TIMEOUT) { return _client()->flush($timeout) }

sub tick () {
    _client()->tick;
    return;
}

sub stats () {
    my $sdk = $client // $retired // _client();
    return $sdk->stats;
}

sub close () {    ## no critic (ProhibitBuiltinHomonyms)
    my $sdk = $client or return;
    $sdk->begin_in_child if $sdk->{pid} != $$;
    $sdk->close;
    ($retired, $client) = ($sdk, undef);
    _unwatch();
    return;
}

# ------------------------------------------------------------------------------------------------------ the ends of a process

my %watched;

# A signal that would end the process on the spot, because the program has no handler for it, ends it with its events safe.
sub _watch ($name) {
    my $handler = $SIG{$name};
    return if defined $handler && $handler ne '' && $handler ne 'DEFAULT';
    $watched{$name} = $SIG{$name} = sub {    ## no critic (RequireLocalizedPunctuationVars)
        if ($client && $client->{pid} == $$) {
            Monitoring::SDK::Context->abort_open("SIG$name", "the process was ended by SIG$name");
            $client->close;
        }
        $SIG{$name} = 'DEFAULT';    ## no critic (RequireLocalizedPunctuationVars)
        kill $name, $$;             # it is blocked while this handler runs, and comes right after
    };
    return;
}

sub _unwatch () {
    for my $name (keys %watched) {
        my $handler = $SIG{$name};
        $SIG{$name} = 'DEFAULT' if ref $handler && $handler == $watched{$name};    ## no critic (RequireLocalizedPunctuationVars)
    }
    %watched = ();
    return;
}

END {
    my $status = $?;
    if ($client) {
        local ($@, $!, $SIG{__DIE__});
        Monitoring::SDK::Context->end_open($status) if $client->{pid} == $$;
        eval { Monitoring::SDK::close(); 1 } or print {*STDERR} "monitoring-sdk: error: can't close: $@";
    }
    $? = $status;    ## no critic (RequireLocalizedPunctuationVars)
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK - reports what a program does to TrackMate

=head1 SYNOPSIS

    use Monitoring::SDK qw(monitored_context);

    Monitoring::SDK::initialize({ sdk => { app => { name => 'etcher', site_id => 'fab1' } } });

    monitored_context('etch', { lot => 'L1', tool => 'E7' }, sub ($run) {
        $run->metric(temperature => 21.5);
    });

    Monitoring::SDK::emit_event({ kind => 'log', name => 'door', message => 'opened', severity => 'warning' });

=head1 DESCRIPTION

Events are checked at once, numbered and buffered; they go to the sidecar of this host (or, in direct mode, to backends) by size, by age,
on C<flush>, on C<close> and at the end of the process. What can't be delivered goes to disk and is sent from there later, by this
process, by the next one, or by the sidecar.

Perl has no worker thread, so all of this happens within calls of the program. A call that has to send waits for the answer at most a
second; when the sidecar does not take events, a circuit breaker keeps it to writing a file, and to a probe of at most a quarter of a
second now and then (first after half a second, later every fifteen). See F<README.md> for what the program can rely on.

=head1 FUNCTIONS

All but C<close> are exported on request.

=head2 initialize($config)

Read the configuration and begin. C<$config> is the name of a file, a hash with the key C<sdk>, or nothing: then the file that
C<MONITORING_CONFIG> names, or F<./monitoring-config.yaml>, and the environment say it all. See L<Monitoring::SDK::Config>. Dies with
every mistake; a second call without C<close> dies, too.

Signals that would end the process on the spot (TERM, INT, HUP) get a handler that saves the events first, unless the program has one of
its own. A program whose handler ends it by C<exit> needs nothing; C<POSIX::_exit> and C<exec> need a C<close> before.

=head2 emit_event(\%event)

Take one event; its C<event_id>. C<kind> and C<name> are required; see L<Monitoring::SDK/EVENTS>. Dies with a
C<Monitoring::SDK::Error::InvalidEvent> for a mistake, never for trouble with delivery.

=head2 emit_batch(\@events)

Take all of the events, or none when one is invalid. In list context their ids; in scalar context a L<Monitoring::SDK::Result> that
also tells what became of them at each backend.

=head2 monitored_context($name, \%metadata, $code)

Run code inside a run: a start is reported, then its finish, or its error when it dies; what it dies with goes on, the same object. The
code gets the run (L<Monitoring::SDK::Context>); what it returns is returned. C<lot>, C<wafer>, C<tool>, C<chamber>, C<recipe>, C<step>,
C<product> and C<operator> in the metadata, and what is under C<entities>, stand on every event inside; all else becomes attributes
of the start and the end. Contexts nest.

Without code it returns the run as a guard, which ends with its scope.

=head2 current_run

The innermost open run, or C<undef>.

=head2 flush($timeout)

Deliver everything that was emitted, or put it on disk, within so many seconds (5 by default); a L<Monitoring::SDK::Result>.

=head2 tick

Deliver what is due by age. A program that waits for long in a loop of its own calls it there now and then.

=head2 stats

The counts since C<initialize>, also after C<close>: a hash with C<emitted>, C<sent>, C<spooled>, C<replayed>, C<rejected>, C<failed>,
C<dropped>, C<queued>, C<dropped_by_reason> and C<backends>. Every event that was emitted is in exactly one of sent, rejected,
spooled, failed, dropped and queued; C<replayed> counts on top of that what was delivered from disk.

=head2 close

Deliver what can be delivered within a second, put the rest on disk, and end. It is called at the end of the process by itself.

=head1 EVENTS

    {   kind     => 'metric',        # start progress finish error metric log state
        name     => 'chuck',
        entities => { tool => 'E7', lot => 'L1' },
        metrics  => { temperature => 21.5 },
        severity => 'info',
        message  => 'text',
        attributes => { anything => [1, { that => 'JSON has' }] },
    }

C<finish> and C<error> may have C<status>, C<duration_ms> and C<error> (C<type>, C<message>, C<stack>); C<progress> has C<progress>, from 0 to 1;
C<state> has C<state> (C<to> and perhaps C<from>). The SDK fills in C<event_id>, C<timestamp>, C<site_id>, C<app>, C<emitter> and the run.

=head2 Numbers and text

A number is what was made as one: a literal, the result of arithmetic. A number that was read from a file is text in Perl, and a
metric that is text is refused: write C<0 + $text>. Text without Perl's UTF-8 flag is taken as UTF-8 where it is valid; bytes that are
not become U+FFFD, so decode text in other encodings before. Booleans are Perl's own (C<!!1>), C<\1> and C<\0>, or those of the JSON
modules; C<undef> is null. Objects of L<Math::BigInt> are exact.

=head1 SEE ALSO

L<Monitoring::SDK::Config>, L<Monitoring::SDK::Context>, L<Monitoring::SDK::Error>, L<Monitoring::SDK::Result>, L<Monitoring::SDK::Log>

=cut
