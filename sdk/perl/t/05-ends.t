use v5.36;
use Test::More;
use File::Temp qw(tempdir);

# How a process ends, and that its events are on disk then; also under -T.
my $folder = tempdir(CLEANUP => 1);
my $start = qq{
    use v5.36; use Monitoring::SDK; \$Monitoring::SDK::Log::LEVEL = 'error';
    Monitoring::SDK::initialize({ sdk => { app => { name => 'a', site_id => 's' },
        sidecar => { url => 'http://127.0.0.1:9', spool_dir => '$folder', retries => 0 } } });
    Monitoring::SDK::emit_event({ kind => 'log', name => 'x' });
};

sub ends ($code, @flags) {
    open my $errors, '>&', \*STDERR or die $!;
    open STDERR, '>', '/dev/null' or die $!;
    system "timeout", 60, $^X, @flags, (map {"-I$_"} @INC), '-e', $start . $code;
    open STDERR, '>&', $errors or die $!;
    my $status = $?;
    my @files = glob "$folder/*.jsonl";
    my $text  = join '', map { open my $in, '<', $_ or die $!; <$in> } @files;
    unlink @files;
    return ($status, $text);
}

for (
    ['the end of main' => '',                         0],
    ['exit'            => 'exit 3;',                  3 << 8],
    ['die'             => 'die "x";',                 255 << 8],
    ['SIGTERM'         => 'kill TERM => $$; sleep 9', 15],
    ['SIGINT'          => 'kill INT => $$; sleep 9',  2],
) {
    my ($name, $code, $expected) = @{$_};
    for my $flags ([], ['-T']) {
        $! = 0;
        my ($status, $text) = ends('$! = 0; ' . $code, @{$flags});
        is $status, $expected, "$name @{$flags}: the status stays";
        is scalar(() = $text =~ /\n/g), 1, 'the event is on disk';
    }
}
my (undef, $text) = ends(q{my $run = Monitoring::SDK::monitored_context('r'); kill TERM => $$; sleep 9});
like $text, qr/"status":"aborted"/, 'a run that a signal ends is aborted';
(undef, $text) = ends(q{sub f { my $run = Monitoring::SDK::monitored_context('r'); $! = 0; die 'x' } f()});
like $text, qr/"status":"aborted"/, 'a run that an uncaught error ends is aborted';
(undef, $text) = ends(q{my $run = Monitoring::SDK::monitored_context('r'); exit 0});
like $text, qr/"status":"ok"/, 'a run that exit 0 ends is ok';
my ($status) = ends(q{local $SIG{TERM} = sub { exit 7 }; kill TERM => $$; sleep 9});
is $status, 7 << 8, "the program's own handler is left alone";
done_testing;
