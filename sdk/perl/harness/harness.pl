#!/usr/bin/env perl

# The Perl SDK's harness: does what it is told by JSON Lines (sdk/conformance/HARNESS.md).

use v5.36;

use IO::Handle   ();
use JSON::PP     ();
use MIME::Base64 qw(decode_base64);
use POSIX        ();
use Scalar::Util qw(blessed);
use Time::HiRes  ();

use Monitoring::SDK ();

my @CAPABILITIES = qw(
    sidecar direct fork int64 bytes nan backend:sidecar backend:filesystem backend:s3 backend:elk backend:webhook
);

my %contexts;
my $json = JSON::PP->new->utf8->canonical->allow_bignum->allow_blessed->convert_blessed;

my %do = (
    initialize => sub ($command) {
        Monitoring::SDK::initialize($command->{file} // $command->{config});
        return {};
    },
    emit_event => sub ($command) { return { event_id => Monitoring::SDK::emit_event($command->{event}) } },
    emit_batch => sub ($command) { return { event_ids => [Monitoring::SDK::emit_batch($command->{events})] } },
    repeat     => sub ($command) {
        my ($event, $slowest) = ($command->{event}, 0);
        for my $number (0 .. $command->{times} - 1) {
            my $mine    = { %{$event}, attributes => { %{ $event->{attributes} // {} }, n => $number } };
            my $started = Time::HiRes::time();
            Monitoring::SDK::emit_event($mine);
            my $took = Time::HiRes::time() - $started;
            $slowest = $took if $took > $slowest;
        }
        return { slowest_us => 1e6 * $slowest };
    },
    context_start => sub ($command) {
        my $run = Monitoring::SDK::monitored_context($command->{name}, $command->{metadata});
        $contexts{ $command->{context} } = $run;
        return { run_id => $run->run_id };
    },
    progress => sub ($command) {
        my $run = $contexts{ $command->{context} };
        return { event_id => $run->progress($command->{progress}, $command->{message}) };
    },
    finish => sub ($command) {
        delete $contexts{ $command->{context} };    # its scope ends
        return {};
    },
    error => sub ($command) {
        my $class = $command->{type};
        my $error = bless { message => $command->{message} }, $class;
        {
            no strict 'refs';    ## no critic (ProhibitNoStrict)
            *{"${class}::message"} = sub ($self) { $self->{message} };
        }
        eval {
            my $run = delete $contexts{ $command->{context} };
            die $error;
        };
        return { raised => ref $@ && $@ == $error ? JSON::PP::true : JSON::PP::false };
    },
    flush => sub ($command) {
        my $result   = Monitoring::SDK::flush($command->{timeout});
        my $backends = $result->backends;
        my %counts   = map { ($_ => { %{ $backends->{$_} }{qw(delivered spooled failed)} }) } keys %{$backends};
        return { flushed => $result ? JSON::PP::true : JSON::PP::false, backends => \%counts };
    },
    stats => sub ($command) {
        my $stats = Monitoring::SDK::stats();
        return { stats => { %{$stats}{qw(emitted sent spooled replayed rejected failed dropped queued)} } };
    },
    sleep => sub ($command) {
        Time::HiRes::sleep($command->{seconds});
        return {};
    },
    idle => sub ($command) {
        my $until = Time::HiRes::time() + $command->{seconds};
        while (Time::HiRes::time() < $until) {
            Monitoring::SDK::tick();
            Time::HiRes::sleep(0.02);
        }
        return {};
    },
    fork => sub ($command) {
        pipe my $reading, my $writing or die "no pipe: $!\n";
        my $child = fork // die "no fork: $!\n";
        if (!$child) {
            CORE::close $reading;
            print {$writing} $json->encode([map { answer($_) } @{ $command->{commands} }]);
            CORE::close $writing;
            exit 0;
        }
        CORE::close $writing;
        my $said = do { local $/ = undef; <$reading> };
        waitpid $child, 0;
        return { answers => $json->decode(length $said ? $said : '[]'), status => $? >> 8 };
    },
    close => sub ($command) {
        Monitoring::SDK::close();
        return {};
    },
    resources => sub ($command) {
        return { map { ($_->[0] => scalar @{[glob "/proc/self/$_->[1]/*"]}) } ['threads', 'task'], ['files', 'fd'] };
    },
    crash => sub ($command) {
        my $how = $command->{how};
        exit 0                          if $how eq 'exit';
        die { crash => 1 }              if $how eq 'exception';    ## no critic (RequireCarping)
        my ($signal) = $how eq 'kill' ? 'KILL' : 'ABRT';
        kill $signal, $$;
        return {};
    },
);

# A value of the protocol as one of Perl's.
sub value_of ($value) {
    return [map { value_of($_) } @{$value}] if ref $value eq 'ARRAY';
    return 0 + "$value"                     if blessed $value && $value->isa('Math::BigFloat') && !$value->isa('Math::BigInt');
    return $value                           if ref $value ne 'HASH';
    if (1 == keys %{$value}) {
        my ($key, $told) = %{$value};
        return { nan => 9**9**9 / 9**9**9, inf => 9**9**9, '-inf' => -9**9**9 }->{$told} if $key eq '$float';
        return decode_base64($told)                                                      if $key eq '$bytes';
        return pack 'C3', 0xe0 | hex($told) >> 12, 0x80 | hex($told) >> 6 & 0x3f, 0x80 | hex($told) & 0x3f if $key eq '$surrogate';
    }
    return { map { ($_ => value_of($value->{$_})) } keys %{$value} };
}

# What came of one command.
sub answer ($command) {
    my $do = $do{ $command->{do} } or return { ok => JSON::PP::false, error => { kind => 'other', message => "no such command: $command->{do}" } };
    my $answer = eval { $do->($command) };
    return { ok => JSON::PP::true, %{$answer} } if $answer;
    my $error = $@;
    die $error if ref $error eq 'HASH';    ## no critic (RequireCarping)
    my %said = (kind => 'other', message => "$error");
    if (blessed $error && $error->isa('Monitoring::SDK::Error')) {
        $said{message} = $error->message;
        if ($error->isa('Monitoring::SDK::Error::InvalidEvent')) { @said{qw(kind path message)} = ('event', $error->path, $error->error) }
        elsif ($error->isa('Monitoring::SDK::Error::Configuration')) { @said{qw(kind problems)} = ('config', [$error->problems]) }
        else                                                         { $said{kind} = 'state' }
    }
    return { ok => JSON::PP::false, error => \%said };
}

sub reply ($answer) {
    print $json->encode($answer), "\n";
    STDOUT->flush;
    return;
}

reply({ harness => 1, language => 'perl', version => $Monitoring::SDK::VERSION, capabilities => \@CAPABILITIES });
while (my $line = <STDIN>) {
    my $command = value_of($json->decode($line));
    my $answer = answer($command);
    $answer->{id} = $command->{id} if exists $command->{id};
    reply($answer);
}
