package Monitoring::SDK::Spool;

# The folder for what can't be delivered now: one file a batch, written to last, claimed by rename, as in all languages.

use v5.36;

use Digest::SHA    ();
use Errno          qw(EPERM);
use Fcntl          qw(:DEFAULT :flock);
use File::Path     ();
use IO::Handle     ();
use Time::HiRes    ();

our $VERSION = '0.1.0';

use constant OLD_CLAIM => 3600;

my $OWNER = qr/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}[.][0-9]+/;
my $NAME  = qr/\A((?<base>(?<owner>$OWNER)[.](?<number>[0-9]{20})[.]jsonl)(?:(?<torn>[.]tmp)|[.]claimed-(?<claimer>[0-9]+))?)\z/;

sub new ($class, $folder, $emitter_id) {
    return bless { folder => $folder, owner => "$emitter_id.$$", own => {}, claims => {} }, $class;
}

sub folder ($self) { return $self->{folder} }

# Where direct mode keeps what one backend of one program could not take.
sub backend_folder ($spool_dir, $app, $backend) {
    my ($site, $program) = map { my $text = $_; utf8::encode($text); $text } @{$app}{qw(site_id name)};
    my $name   = substr $app->{name} =~ s/[^A-Za-z0-9_-]/_/gr, 0, 80;
    my $digest = substr Digest::SHA::sha256_hex("$site\0$program"), 0, 8;
    my ($trusted) = "$name-$digest" =~ /\A(.*)\z/s;
    return "$spool_dir/direct/$trusted/$backend";
}

# ---------------------------------------------------------------------------------------------------------------- writing

# Put lines on disk, for good when this returns. Dies with the reason when the folder can't be written.
sub write_batch ($self, $number, $lines) {
    my $name = sprintf '%s.%020d.jsonl', $self->{owner}, $number;
    $self->_write($name, $lines);
    $self->{own}{$name} = 1;
    return;
}

# Keep lines that were refused, where nobody replays them.
sub set_aside ($self, $number, $lines) {
    $self->_write(sprintf('%s.%020d.jsonl.refused', $self->{owner}, $number), $lines);
    return;
}

sub _write ($self, $name, $lines) {
    $self->_be_alive;
    my $path = "$self->{folder}/$name";
    my $aside = "$path.tmp";
    unlink $aside;
    sysopen my $out, $aside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666 or die "$!\n";
    if (!(_all_written($out, join "\n", @{$lines}, '') && $out->sync && close($out) && rename $aside, $path)) {
        my $why = "$!";
        unlink $aside;
        die "$why\n";
    }
    sync_folder($self->{folder});
    return;
}

sub _all_written ($out, $data) {
    my $done = 0;
    while ($done < length $data) {
        my $count = syswrite $out, $data, length($data) - $done, $done;
        next     if !defined $count && $!{EINTR};
        return 0 if !defined $count;
        $done += $count;
    }
    return 1;
}

sub sync_folder ($folder) {
    sysopen my $handle, $folder, O_RDONLY or die "$!\n";
    $handle->sync or die "$!\n";
    close $handle;
    return;
}

# Hold the lock that tells others that this process lives, in a folder that exists.
sub _be_alive ($self) {
    my $path = "$self->{folder}/$self->{owner}.lock";
    if ($self->{lock}) {
        return if _is_at($self->{lock}, $path);
        close delete $self->{lock};
    }
    if (!-d $self->{folder}) {
        File::Path::make_path($self->{folder}, { error => \my $errors });
        die((map { values %{$_} } @{$errors})[0] . "\n") if @{$errors};
    }
    for (1 .. 100) {
        sysopen my $lock, $path, O_RDWR | O_CREAT | O_NOFOLLOW, 0666 or die "$!\n";
        flock $lock, LOCK_EX or die "$!\n";
        if (_is_at($lock, $path)) {
            $self->{lock} = $lock;
            return;
        }
        close $lock;
    }
    die "somebody removes the lock file again and again\n";
}

# The end of the owner: what it left may be taken by anybody.
sub close_owner ($self) {
    my $lock = delete $self->{lock} or return;
    unlink "$self->{folder}/$self->{owner}.lock";
    close $lock;
    return;
}

# Close the handles, but let the locks be: in a forked child, where they are the parent's.
sub forget ($self) {
    close $_ for grep { defined } delete $self->{lock}, values %{ $self->{claims} };
    $self->{claims} = {};
    return;
}

# -------------------------------------------------------------------------------------------------------------- replaying

# The names of files that this process wrote and that, as far as it knows, still wait; oldest first.
sub own ($self) { return sort keys %{ $self->{own} } }

# The names of files that dead processes left, and of claims that dead claimers left; oldest first.
sub orphans ($self) {
    opendir my $listing, $self->{folder} or return;
    my @names = map { /\A([^\/]+)\z/ ? $1 : () } readdir $listing;
    closedir $listing;
    my (%dead, %left, @found);
    for my $name (@names) {
        next if $name !~ $NAME;
        my ($owner, $claimer) = @+{qw(owner claimer)};
        $left{$owner} = 1;
        my @status = lstat "$self->{folder}/$name" or next;
        next if !-f _;
        my $is_own = $owner eq $self->{owner};
        $dead{$owner} //= (!$is_own && $self->_is_dead($owner)) if !defined $claimer;
        my $is_free = defined $claimer ? $is_own || _may_be_stale($claimer, $status[10]) : $dead{$owner};
        push @found, [$status[9], $name] if $is_free;
    }
    for my $name (@names) {    # locks of dead owners that left nothing
        my ($owner) = $name =~ /\A($OWNER)[.]lock\z/ or next;
        unlink "$self->{folder}/$owner.lock" if !$left{$owner} && $owner ne $self->{owner} && $self->_is_dead($owner);
    }
    return map { $_->[1] } sort { $a->[0] <=> $b->[0] || $a->[1] cmp $b->[1] } @found;
}

sub _is_dead ($self, $owner) {
    sysopen my $lock, "$self->{folder}/$owner.lock", O_RDONLY | O_NOFOLLOW or return !!$!{ENOENT};
    my $is_free = flock $lock, LOCK_EX | LOCK_NB;
    close $lock;
    return $is_free;
}

sub _may_be_stale ($claimer, $changed) {
    return 1 if $claimer == $$ || time - $changed > OLD_CLAIM;
    return 0 if kill 0, $claimer;
    return $! != EPERM;
}

# A file, ours to replay: a hash with its `name` while nobody claims it, the writer's id as `log`, the `number` of its first event
# and its whole `lines`. Undef when somebody else has it, or it is gone.
sub claim ($self, $name) {
    delete $self->{own}{$name};
    $name =~ $NAME or return;
    my ($trusted, $base, $owner, $number) = ($1, @+{qw(base owner number)});
    my $path = "$self->{folder}/$trusted";
    sysopen my $file, $path, O_RDONLY | O_NOFOLLOW or return;
    my $claimed = "$self->{folder}/$base.claimed-$$";
    if (!(flock($file, LOCK_EX | LOCK_NB) && _is_at($file, $path) && rename $path, $claimed)) {
        close $file;
        return;
    }
    binmode $file;
    my $data = do { local $/ = undef; readline($file) // '' };
    my @lines = grep { length } split /\n/, substr $data, 0, 1 + rindex $data, "\n";
    $self->{claims}{$base} = $file;
    return { name => $base, path => $claimed, log => $owner =~ s/[.].*//r, number => 0 + $number, lines => \@lines };
}

# Its events are delivered: delete it.
sub done ($self, $claim) {
    unlink $claim->{path};
    $self->_free($claim);
    return;
}

# Let it wait for another try.
sub give_back ($self, $claim) {
    rename $claim->{path}, "$self->{folder}/$claim->{name}";
    $self->_free($claim);
    $self->{own}{ $claim->{name} } = 1 if 0 == index $claim->{name}, "$self->{owner}.";
    return;
}

# Keep it aside for a person to look at.
sub refuse ($self, $claim) {
    rename $claim->{path}, "$self->{folder}/$claim->{name}.refused";
    $self->_free($claim);
    return;
}

sub _free ($self, $claim) {
    my $file = delete $self->{claims}{ $claim->{name} };
    close $file if $file;
    return;
}

# Whether an open file is still the one of that name.
sub _is_at ($handle, $path) {
    my @opened = stat $handle or return 0;
    my @named  = lstat $path  or return 0;
    return $opened[0] == $named[0] && $opened[1] == $named[1];
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Spool - what waits on disk

=head1 DESCRIPTION

Internal. The folder's format is the same in all languages: one JSON Lines file a batch, named
C<< <emitter id>.<pid>.<number>.jsonl >>, written to a temporary name, synced and renamed; claimed by renaming; the owner holds a
C<flock> on its lock file while it lives.

=head1 METHODS

=head2 new($folder, $emitter_id)

This process's part of a folder. Nothing is made before it is needed.

=head2 folder

Its path.

=head2 write_batch($number, \@lines)

Put lines on disk; dies with the reason when that fails.

=head2 set_aside($number, \@lines)

Keep lines where nobody replays them.

=head2 own, orphans

Names of files to replay: this process's, and those of the dead.

=head2 claim($name)

A file, ours to replay, or C<undef>.

=head2 done($claim), give_back($claim), refuse($claim)

What became of it.

=head2 close_owner

The end of the owner.

=head2 forget

In a forked child: let go of what is the parent's.

=head1 FUNCTIONS

=head2 backend_folder($spool_dir, \%app, $backend)

The folder of one backend of direct mode.

=head2 sync_folder($folder)

Make renames in a folder durable; dies with the reason when that fails.

=cut
