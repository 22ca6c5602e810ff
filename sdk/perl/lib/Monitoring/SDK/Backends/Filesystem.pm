package Monitoring::SDK::Backends::Filesystem;

# Writes JSON Lines to a folder, in the layout of TrackMate's sink of that name; a batch delivered twice stands once.
#
#     <path>/date=2026-07-01/hour=09/<log>-<first number>.jsonl.open            grows
#     <path>/date=2026-07-01/hour=09/<log>-<first number>-<last number>.jsonl   complete, never touched again
#     <path>/.state/<log>.json                                                  what the files hold, for certain
#     <path>/.state/<log>.lock                                                  its owner holds an exclusive flock on it
#
# A batch is appended to the growing files of its hours, these are synced, and only then the state is replaced. The state is the
# truth: numbers that it covers are passed over when they come again, and what a crash left beyond the recorded length is cut off.

use v5.36;

use Cwd         ();
use Fcntl       qw(:DEFAULT :flock :seek);
use File::Path  ();
use File::Spec  ();
use IO::Handle  ();
use List::Util  qw(max min);
use Time::HiRes ();

use Monitoring::SDK::JSON      ();
use Monitoring::SDK::Partition ();
use Monitoring::SDK::Spool     ();

our $VERSION = '0.1.0';

use constant {
    MAX_EVENTS     => 5000,
    MAX_BYTES      => 1024 * 1024 - 4096,
    ROTATE_MB      => 100,
    ROTATE_SECONDS => 60,
    MOST_OPEN      => 48,
    PATIENCE       => 1,             # how long to wait for another process that writes for the same dead one, in seconds
    TIDY_INTERVAL  => 60,
    STALE_STATE    => 30 * 86_400,
};

sub problems ($class, $config, $base) {
    return if ($config->{format} // 'jsonl') eq 'jsonl';
    return ['config.format', 'the Perl SDK writes jsonl; let the sidecar write Parquet'];
}

sub new ($class, $settings, $sidecar, $emitter_id) {
    my $config = $settings->{config};
    my $path   = $config->{path};
    utf8::encode($path) if utf8::is_utf8($path);
    my $home = $ENV{HOME} // '';
    $path =~ s{\A~(?=/|\z)}{$home} if length $home;
    my ($root) = File::Spec->rel2abs($path, $settings->{base} // Cwd::getcwd()) =~ /\A(.*)\z/s;
    return bless {
        root           => $root,
        own_log        => $emitter_id,
        rotate_bytes   => ($config->{rotate_size_mb} // ROTATE_MB) * 1024 * 1024,
        rotate_seconds => $config->{rotate_seconds} // ROTATE_SECONDS,
        next_tidying   => 0,
    }, $class;
}

sub bounds         ($self) { return (MAX_EVENTS, MAX_BYTES) }
sub keeps_rejected ($self) { return 0 }

sub send ($self, $batch, $timeout) {    ## no critic (ProhibitBuiltinHomonyms)
    my $is_own = $batch->{log} eq $self->{own_log};
    local ($@, $SIG{__DIE__});
    my $log;
    my $is_done = eval {
        $log = $is_own ? $self->{log} //= $self->_log($self->{own_log}) : $self->_log($batch->{log}, min(PATIENCE, $timeout));
        $self->_add($log, $batch);
        if ($is_own) { $self->_rotate($log, $self->{rotate_bytes}, $self->{rotate_seconds}) }
        else         { $self->_rotate($log, 0, 0) }
        1;
    };
    my $error = "$@";
    _free($log) if $log && !$is_own;
    return { outcome => 'accepted' } if $is_done;
    chomp $error;
    $self->{is_in_doubt} = 1;    # a batch may stand there though it counts as not delivered: then the state stays
    $self->forget;
    return { outcome => 'retry', detail => "can't write to $self->{root}: $error; check space, rights and `path`" };
}

# Complete the files that are old enough, and those that dead processes left.
sub tick ($self) {
    local ($@, $SIG{__DIE__});
    eval {
        $self->_rotate($self->{log}, $self->{rotate_bytes}, $self->{rotate_seconds}) if $self->{log};
        if (time >= $self->{next_tidying}) {
            $self->{next_tidying} = time + TIDY_INTERVAL;
            $self->_tidy;
        }
        1;
    } or $self->forget;    # the next batch meets the same disk and reports it
    return;
}

# Complete every growing file.
sub close ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    if (my $log = $self->{log}) {
        local ($@, $SIG{__DIE__});
        eval {             # when it fails, the next process that writes here completes them
            $self->_rotate($log, 0, 0);
            unlink $log->{state}, $log->{lock_path} if !$self->{is_in_doubt};
            1;
        };
    }
    $self->forget;
    return;
}

# Close the handle of the lock; what is to be known stands on disk.
sub forget ($self) {
    my $log = delete $self->{log};
    _free($log) if $log;
    return;
}

sub _free ($log) {
    my $lock = delete $log->{lock};
    CORE::close $lock if $lock;
    return;
}

sub _tidy ($self) {
    opendir my $listing, "$self->{root}/.state" or return;
    my @names = map { /\A([A-Za-z0-9._-]+)[.]lock\z/ ? $1 : () } readdir $listing;
    closedir $listing;
    for my $name (grep { $_ ne $self->{own_log} } @names) {
        my $log = eval { $self->_log($name, 0) } or next;    # its owner lives
        my $is_done = eval { $self->_rotate($log, 0, 0); 1 };
        my $changed = (stat $log->{state})[9] // 0;
        unlink $log->{state}, $log->{lock_path} if $is_done && time - $changed > STALE_STATE;
        _free($log);
    }
    return;
}

# ------------------------------------------------------------------------------------------------------------------- a log

# The files of one log, locked. Dies when somebody else has them, or the folder can't be used.
sub _log ($self, $name, $patience = PATIENCE) {
    my $folder = "$self->{root}/.state";
    _make_folder($folder);
    my %log = (name => $name, state => "$folder/$name.json", lock_path => "$folder/$name.lock", covered => [], open => {});
    $log{lock} = _locked($log{lock_path}, $patience);
    if (open my $in, '<:raw', $log{state}) {
        my $text = do { local $/ = undef; <$in> };
        CORE::close $in;
        my $state = eval { Monitoring::SDK::JSON::decode($text) };
        die "$log{state} can't be read; move it away\n" if ref $state ne 'HASH' || ref $state->{covered} ne 'ARRAY' || ref $state->{open} ne 'HASH';
        $log{covered} = $state->{covered};
        for my $partition (keys %{ $state->{open} }) {
            my ($trusted) = $partition =~ m{\A(date=[0-9-]+/hour=[0-9]+)\z} or next;
            my %file = %{ $state->{open}{$partition} };
            ($_) = "$_" =~ /\A([0-9.e+]+)\z/ for values %file;
            $log{open}{$trusted} = { map { ($_ => 0 + $file{$_}) } keys %file };
        }
    }
    elsif (!$!{ENOENT}) { die "$log{state}: $!\n" }
    my %known = map { ($self->_growing(\%log, $_) => $log{open}{$_}{size}) } keys %{ $log{open} };
    for my $path (keys %known) { truncate $path, $known{$path} if (-s $path // 0) > $known{$path} }
    for my $found (glob _quoted($self->{root}) . "/date=*/hour=*/$name-*.jsonl.open") {
        my ($path) = $found =~ /\A(.*)\z/s;
        unlink $path if !exists $known{$path};
    }
    return \%log;
}

sub _quoted ($path) { return $path =~ s/([\\\[\]{}*?~\s'"])/\\$1/gr }

sub _growing ($self, $log, $partition) {
    return sprintf '%s/%s/%s-%020d.jsonl.open', $self->{root}, $partition, $log->{name}, $log->{open}{$partition}{first};
}

# Append what of the batch is not there yet; afterwards its numbers count as covered.
sub _add ($self, $log, $batch) {
    my ($first, $last) = ($batch->{number}, $batch->{number} + $#{ $batch->{lines} });
    my %hours;
    for my $number ($first .. $last) {
        next if grep { $_->[0] <= $number && $number <= $_->[1] } @{ $log->{covered} };
        my $line = $batch->{lines}[$number - $first];
        push @{ $hours{ Monitoring::SDK::Partition::partition_of($line) } }, [$number, $line];
    }
    my %grown = map { ($_ => $self->_append($log, $_, $hours{$_})) } sort keys %hours;
    $self->_store($log, _with($log->{covered}, $first, $last), { %{ $log->{open} }, %grown });
    return;
}

sub _append ($self, $log, $partition, $numbered) {
    my ($trusted) = $partition =~ /\A(.*)\z/s;
    my $known = $log->{open}{$trusted};
    my $first = $known ? $known->{first} : $numbered->[0][0];
    my $folder = "$self->{root}/$trusted";
    my $path   = sprintf '%s/%s-%020d.jsonl.open', $folder, $log->{name}, $first;
    _make_folder($folder) if !$known;
    my $data = join "\n", (map { $_->[1] } @{$numbered}), '';
    utf8::downgrade($data);
    sysopen my $out, $path, O_WRONLY | O_CREAT, 0666 or die "$!\n";
    my $size = min(-s $out // 0, $known ? $known->{size} : 0);
    truncate $out, $size or die "$!\n";
    sysseek $out, $size, SEEK_SET or die "$!\n";
    for (my $done = 0; $done < length $data;) {
        my $count = syswrite $out, $data, length($data) - $done, $done;
        die "$!\n" if !defined $count && !$!{EINTR};
        $done += $count // 0;
    }
    $out->sync or die "$!\n";
    CORE::close $out or die "$!\n";
    Monitoring::SDK::Spool::sync_folder($folder) if !$known;
    my $last = $numbered->[-1][0];
    return { first => $first, last => $last, size => length $data, since => Time::HiRes::time() } if !$known;
    return { %{$known}, last => max($known->{last}, $last), size => $size + length $data };
}

# Complete the growing files that are large or old enough.
sub _rotate ($self, $log, $bytes, $seconds) {
    my $open   = $log->{open};
    my @by_age = sort { $open->{$a}{since} <=> $open->{$b}{since} } keys %{$open};
    my %surplus = map { ($_ => 1) } @by_age > MOST_OPEN ? @by_age[0 .. $#by_age - MOST_OPEN] : ();
    my $now = Time::HiRes::time();
    my @done = grep { $surplus{$_} || $open->{$_}{size} >= $bytes || $now - $open->{$_}{since} >= $seconds } @by_age;
    for my $partition (@done) {
        my $growing = $self->_growing($log, $partition);
        my $whole = sprintf '%s/%s/%s-%020d-%020d.jsonl', $self->{root}, $partition, $log->{name}, @{ $open->{$partition} }{qw(first last)};
        next if !rename($growing, $whole) && $!{ENOENT};
        Monitoring::SDK::Spool::sync_folder("$self->{root}/$partition");
    }
    return if !@done;
    my %left = %{$open};
    delete @left{@done};
    $self->_store($log, $log->{covered}, \%left);
    return;
}

sub _store ($self, $log, $covered, $open) {
    my $aside = "$log->{state}.tmp";
    sysopen my $out, $aside, O_WRONLY | O_CREAT | O_TRUNC, 0666 or die "$!\n";
    my $text = Monitoring::SDK::JSON::value('', { covered => $covered, open => $open }, 1);
    defined syswrite $out, $text or die "$!\n";
    $out->sync or die "$!\n";
    CORE::close $out or die "$!\n";
    rename $aside, $log->{state} or die "$!\n";
    Monitoring::SDK::Spool::sync_folder("$self->{root}/.state");
    @{$log}{qw(covered open)} = ($covered, $open);
    return;
}

# Closed ranges in order, none touching the next, with one more put in.
sub _with ($ranges, $first, $last) {
    my @before   = grep { $_->[1] < $first - 1 } @{$ranges};
    my @after    = grep { $_->[0] > $last + 1 } @{$ranges};
    my @touching = grep { $_->[1] >= $first - 1 && $_->[0] <= $last + 1 } @{$ranges};
    return [@before, [min($first, map { $_->[0] } @touching), max($last, map { $_->[1] } @touching)], @after];
}

# A handle that holds the lock, which is made when it is missing. Dies when somebody else holds it.
sub _locked ($path, $patience) {
    my $deadline = Time::HiRes::time() + $patience;
    sysopen my $lock, $path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666 or die "$!\n";
    until (flock $lock, LOCK_EX | LOCK_NB) {
        die "another process writes for this log\n" if Time::HiRes::time() >= $deadline;
        Time::HiRes::sleep(0.01);
    }
    return $lock;
}

sub _make_folder ($folder) {
    return if -d $folder;
    File::Path::make_path($folder, { error => \my $errors });
    die((map { values %{$_} } @{$errors})[0] . "\n") if @{$errors};
    Monitoring::SDK::Spool::sync_folder($folder =~ s{/[^/]*\z}{}r);
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends::Filesystem - delivers to a folder

=head1 DESCRIPTION

JSON Lines in C<date=…/hour=…> folders by the event's own hour in UTC. What it accepts is synced, and a batch delivered twice
stands once. A file that grows ends in C<.open>; it is complete after C<rotate_size_mb> (100), C<rotate_seconds> (60) or at the end.

=head1 METHODS

=head2 new(\%settings, \%sidecar, $emitter_id), send(\%batch, $timeout), bounds, keeps_rejected, tick, close, forget

As of every backend, see L<Monitoring::SDK::Backends>.

=head2 problems(\%config, $base)

What a schema can't tell to be wrong.

=cut
