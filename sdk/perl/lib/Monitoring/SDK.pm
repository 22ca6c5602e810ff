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
        local $SIG{$name} = 'DEFAULT';
        kill $name, $$;
        sleep 1;
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
