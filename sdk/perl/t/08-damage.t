use v5.36;
use Test::More;
use File::Temp qw(tempdir);
use Monitoring::SDK                 ();
use Monitoring::SDK::JSON           ();
use Monitoring::SDK::Lane           ();
use Monitoring::SDK::Retry          ();
use Monitoring::SDK::Spool          ();

# What damage to a disk made of lines that wait there for a backend of direct mode.
my @told;
$Monitoring::SDK::Log::SINK = sub ($level, $text) { push @told, $text };
my $emitter = '01890a5d-ac96-774b-8cce-0000000000aa';
my $reason  = 'the spool file is damaged here';

package Told {
    sub new              ($class)              { return bless { numbers => 1, failed => 0, replayed => 0 }, $class }
    sub take_numbers     ($self, $count)       { return ($self->{numbers} += $count) - $count }
    sub failed_on_replay ($self, $count)       { $self->{failed} += $count; return }
    sub replayed         ($self, $count)       { $self->{replayed} += $count; return }
    sub emitter_id       ($self)               { return $emitter }
}

package Taker {
    sub new            ($class, @outcomes) { return bless { outcomes => \@outcomes, taken => [] }, $class }
    sub bounds         ($self)             { return (2, 1_000_000) }
    sub keeps_rejected ($self)             { return 0 }
    sub send           ($self, $batch, $timeout) {
        my $outcome = shift @{ $self->{outcomes} } // 'accepted';
        push @{ $self->{taken} }, @{ $batch->{lines} } if $outcome eq 'accepted';
        return { outcome => $outcome, detail => 'not now' };
    }
}

package main;

sub event ($number) {
    return qq({"event_id":"$number","timestamp":"2026-07-01T12:00:00Z","kind":"log","name":"\xc3\xa9"});
}

# A lane, and its folder with a file of these lines that a dead process left.
sub lane_before ($backend, @lines) {
    my $folder = tempdir(CLEANUP => 1);
    open my $out, '>:raw', "$folder/$emitter.999999.00000000000000000007.jsonl" or die $!;
    print {$out} map {"$_\n"} @lines;
    close $out or die $!;
    my $lane = Monitoring::SDK::Lane->new(
        settings => { name => 'b', timeout => 5, retries => 0 }, backend => $backend, queue => Told->new, letters => 1,
        spool => Monitoring::SDK::Spool->new($folder, '01890a5d-ac96-774b-8cce-0000000000bb'),
    );
    return ($lane, $folder);
}

sub replay ($lane) {
    @{ $lane->{breaker} }{qw(failures open_until)} = (0, 0);
    $lane->{next_orphans} = 0;
    return $lane->replay(Monitoring::SDK::Retry::now() + 20, 1);
}

sub letters ($folder) {
    my @letters;
    for my $file (sort glob "$folder/*.refused") {
        open my $in, '<:raw', $file or die $!;
        push @letters, map { Monitoring::SDK::JSON::decode($_) } <$in>;
    }
    return @letters;
}

my @damaged = ("\xff\0 garbage", '[1]', '"text"', '7', '{"event_id":"3","timesta', event(4) . '}', "{\"name\":\"\xff\"}");
my $taker = Taker->new(qw(accepted retry accepted));
my ($lane, $folder) = lane_before($taker, event(1), @damaged[0 .. 3], event(2), @damaged[4 .. 6], event(5));
replay($lane);
is_deeply [map { $_->{reason} } letters($folder)], [($reason) x 7], 'each damaged line is kept aside with the reason';
is scalar(() = glob "$folder/$emitter.*.jsonl"), 1, 'the file waits while the backend does not take it';
replay($lane);
is_deeply $taker->{taken}, [event(1), event(2), event(5)], 'all else is delivered, once and as it was';
is_deeply [glob "$folder/$emitter.*"], [], 'the file is gone';
my @letters = letters($folder);
is_deeply [map { $_->{seq} } @letters], [8 .. 11, 13 .. 15], 'nothing is kept aside twice';
is $letters[0]{event}, "\x{fffd}\x{fffd} garbage", 'what is no text is marked in it';
is $letters[5]{event_id}, 4, 'the id is told where it can be read';
is scalar(grep { /7 line\(s\) of \Q$folder\E.* are damaged/ } @told), 1, 'the log tells, once';
is $lane->result->{failed}, 7, 'it is counted as failed';
is_deeply [@{ $lane->{queue} }{qw(failed replayed)}], [7, 3], 'by the program too';

$taker = Taker->new;
($lane, $folder) = lane_before($taker, "\0" x 9, '');
replay($lane);
is_deeply $taker->{taken}, [], 'a file that has nothing but damage is not sent';
is_deeply [glob "$folder/$emitter.*"], [], 'and is gone';
is scalar(letters($folder)), 1, 'and kept aside';

$taker = Taker->new;
($lane, $folder) = lane_before($taker, "\0" x 9, event(1));
{
    no warnings 'redefine';
    local *Monitoring::SDK::Spool::set_aside = sub { die "No space left on device\n" };
    replay($lane);
}
is scalar(() = glob "$folder/$emitter.*.jsonl"), 1, 'the file waits while its damaged lines can be kept nowhere';
replay($lane);
is_deeply $taker->{taken}, [event(1)], 'and is delivered afterwards';
is scalar(letters($folder)), 1, 'with them kept aside';

$taker = Taker->new;
($lane, $folder) = lane_before($taker, event(1), '[1]');
$lane->{letters} = 0;
replay($lane);
is_deeply $taker->{taken}, [event(1), '[1]'], 'the sidecar gets what is there: it keeps quarantine itself';
done_testing;
