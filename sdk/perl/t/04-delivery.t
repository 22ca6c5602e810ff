use v5.36;
use Test::More;
use File::Temp qw(tempdir);
use Monitoring::SDK qw(monitored_context);
use Monitoring::SDK::JSON ();

$Monitoring::SDK::Log::LEVEL = 'error';
my $folder = tempdir(CLEANUP => 1);

sub initialize (%sdk) {
    Monitoring::SDK::initialize({
        sdk => { app => { name => 'a', site_id => 's' }, sidecar => { url => 'http://127.0.0.1:9', spool_dir => $folder, retries => 0 }, %sdk },
    });
    return;
}

# What waits in the folder, in order; it is gone afterwards.
sub spooled () {
    my @events;
    for my $file (sort glob "$folder/*.jsonl") {
        open my $in, '<', $file or die $!;
        push @events, map { Monitoring::SDK::JSON::decode($_) } <$in>;
        close $in;
        unlink $file;
    }
    return sort { $a->{emitter}{seq} <=> $b->{emitter}{seq} } @events;
}

ok !eval { Monitoring::SDK::emit_event({ kind => 'log', name => 'x' }); 1 }, 'an event before initialize dies';
isa_ok $@, 'Monitoring::SDK::Error::NotInitialized';
like "$@", qr/at \Q$0\E line/, 'and says where the program is';

initialize();
ok !eval { initialize(); 1 }, 'a second initialize dies';
my @ids = Monitoring::SDK::emit_batch([map { { kind => 'log', name => "n$_" } } 1 .. 3]);
is @ids, 3, 'an id for each event';
my $batch = Monitoring::SDK::emit_batch([{ kind => 'log', name => 'n4' }]);
is $batch->backends->{sidecar}{waiting}, 1, 'it waits';
ok +Monitoring::SDK::flush(5), 'all is safe';
is $batch->backends->{sidecar}{spooled}, 1, 'it is on disk';
is_deeply [map { $_->{name} } spooled()], [qw(n1 n2 n3 n4)], 'everything is on disk, in order';

{
    local $@ = 'mine';
    local $! = 2;
    Monitoring::SDK::emit_event({ kind => 'log', name => 'x' });
    Monitoring::SDK::flush(1);
    is $@, 'mine', 'the program keeps its error';
    is 0 + $!, 2, 'and its errno';
}
spooled();

# Contexts
is monitored_context('c', { lot => 'L1', wafer => 7, note => 'n' }, sub ($run) { return 42 }), 42, 'what the code returns is returned';
my $error = bless { message => 'no plasma' }, 'ChamberTimeout';
sub ChamberTimeout::message ($self) { return $self->{message} }
eval { monitored_context('c', undef, sub { die $error }) };
is $@, $error, 'what the code dies with goes on, the same object';
Monitoring::SDK::flush(1);
my @events = spooled();
is_deeply [map { $_->{kind} } @events], [qw(start finish start error)], 'start and end of both';
is_deeply $events[1]{entities}, { lot => 'L1', wafer => '7' }, 'entities, whole numbers as text';
is $events[0]{attributes}{note}, 'n', 'attributes';
is $events[3]{error}{type}, 'ChamberTimeout', 'the type of the exception';
is $events[3]{error}{message}, 'no plasma', 'its message';

# Guards
sub ends (@code) {
    eval { my $run = monitored_context('g'); $_->($run) for @code; 1 };
    Monitoring::SDK::flush(1);
    my @found = grep { $_->{kind} ne 'start' } spooled();
    return join ' ', map {"$_->{kind}:$_->{status}"} @found;
}
is ends(), 'finish:ok', 'a guard whose block ends';
is ends(sub { die "text\n" }), 'error:failed', 'a guard whose block dies with text';
is ends(sub { die 'here' }), 'error:failed', 'with text and a line';
is ends(sub { die $error }), 'error:failed', 'with an object';
is ends(sub { die "text\n" }), 'error:failed', 'the same text again';
is ends(sub { require Carp; Carp::croak('croaked') }), 'error:failed', 'a guard whose block croaks';
is ends(sub { local $@; eval { die 'inner' }; 1 }), 'finish:ok', 'a guard whose block has caught an error and kept it local';
sub dies { die 'in a function' }
is ends(sub { dies() }), 'error:failed', 'a guard whose block dies in a function';
is ends(sub ($run) { $run->fail('x') }), 'error:failed', 'a guard that was told';
is ends(sub ($run) { eval { die $error }; $run->ok }), 'finish:ok', 'a guard that was told that all is well';
{
    eval { die "before\n" };
    my $run = monitored_context('g');
    undef $run;
    Monitoring::SDK::flush(1);
    is((spooled())[1]{kind}, 'finish', 'an error from before the block does not count');
}

# Forks
Monitoring::SDK::emit_event({ kind => 'log', name => 'parent' });
if (!(my $child = fork // die)) {
    Monitoring::SDK::emit_event({ kind => 'log', name => 'child' });
    Test::More->builder->no_ending(1);
    exit 0;
}
wait;
@events = spooled();
is_deeply [map {"$_->{name} $_->{emitter}{seq}"} @events], ['child 1'], 'a child sends its own events alone';
Monitoring::SDK::flush(1);
is_deeply [map { $_->{name} } spooled()], ['parent'], 'the parent its own';
Monitoring::SDK::close();
Monitoring::SDK::close();
is +Monitoring::SDK::stats()->{queued}, 0, 'counts after close';

# Without a spool folder
initialize(sidecar => { url => 'http://127.0.0.1:9', enable_spooling => !!0, retries => 0 }, queue => { max_events => 10, on_full => 'drop_oldest' });
Monitoring::SDK::emit_event({ kind => 'log', name => 'x' }) for 1 .. 50;
my $stats = Monitoring::SDK::stats();
cmp_ok $stats->{queued}, '<=', 30, 'memory is bounded';
cmp_ok $stats->{dropped}, '>', 0, 'what was dropped is counted';
Monitoring::SDK::close();
$stats = Monitoring::SDK::stats();
is $stats->{queued} + $stats->{dropped}, $stats->{emitted}, 'nothing is left uncounted';
is_deeply [glob "$folder/*.lock"], [], 'no lock is left';
done_testing;
