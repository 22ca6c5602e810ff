package Monitoring::SDK::Context;

# A run: what happens between the start and the end of a monitored context, and how it is reported.

use v5.36;
no warnings 'experimental::builtin';    ## no critic (ProhibitNoWarnings)

use Carp         ();
use Scalar::Util qw(blessed weaken);

use Monitoring::SDK::Error ();
use Monitoring::SDK::Event ();
use Monitoring::SDK::Ids   ();
use Monitoring::SDK::JSON  ();
use Monitoring::SDK::Log   ();
use Monitoring::SDK::Retry ();

our $VERSION = '0.1.0';

use constant {
    LONGEST_ERROR => 8_000,
    LONGEST_STACK => 32_000,
    ROUNDING      => 1e-9,
};

my %IS_ENTITY = map { ($_ => 1) } qw(lot wafer tool chamber recipe step product operator);

my @active;    # weak references to the runs that are open, the innermost last
my $client = sub { };

# Where events go: code that gives the client of the moment, or dies.
sub use_client ($class, $code) {
    $client = $code;
    return;
}

# The innermost open run.
sub current ($class) {
    pop @active while @active && !defined $active[-1];
    return @active ? $active[-1] : undef;
}

# Begin a run inside the active one, and report it.
sub start ($class, $name, $metadata = undef) {
    my $sdk = $client->();
    my ($entities, $attributes) = _split($name, $metadata);
    my $parent = $class->current;
    my $self = bless {
        name          => $name,
        run_id        => Monitoring::SDK::Ids::uuid7(),
        parent_run_id => $parent ? $parent->{run_id} : undef,
        entities      => { ($parent ? %{ $parent->{entities} } : ()), %{$entities} },
        attributes    => $attributes,
        started       => Monitoring::SDK::Retry::now(),
        pid           => $$,
        error_before  => $@,
        status_before => $?,
        is_done       => 1,
    }, $class;
    %{$self} = (%{$self}, Monitoring::SDK::Event::run_texts($self));
    my %event = (kind => 'start', name => $name, %{$attributes} ? (attributes => $attributes) : ());
    $sdk->emit(\%event, $self);
    $self->{is_done} = 0;
    push @active, $self;
    weaken $active[-1];
    return $self;
}

# The entities and the attributes that stand in metadata.
sub _split ($name, $metadata) {
    $metadata //= {};
    if (ref $metadata ne 'HASH') {
        my $kind = Monitoring::SDK::JSON::kind_of($metadata);
        Monitoring::SDK::JSON::refuse('metadata', "expected a hash such as {lot => 'L1'}, got $kind");
    }
    my $own = $metadata->{entities} // {};
    if (ref $own ne 'HASH') {
        my $kind = Monitoring::SDK::JSON::kind_of($own);
        Monitoring::SDK::JSON::refuse('metadata.entities', "expected a hash such as {robot => 'R2'}, got $kind");
    }
    my %entities   = ((map { ($_ => $metadata->{$_}) } grep { $IS_ENTITY{$_} } keys %{$metadata}), %{$own});
    my %attributes = map { ($_ => $metadata->{$_}) } grep { !$IS_ENTITY{$_} && $_ ne 'entities' } keys %{$metadata};
    for my $value (values %entities) {    # wafer 7 is as good as wafer "7"
        $value = "$value" if Monitoring::SDK::JSON::kind_of($value) eq 'integer';
    }
    my %event = (kind => 'start', name => $name, entities => \%entities, attributes => \%attributes);
    Monitoring::SDK::Event::encode(\%event, { site_id => '', app => '' }, undef);
    return (\%entities, \%attributes);
}

# ----------------------------------------------------------------------------------------------------------------- reporting

sub name   ($self) { return $self->{name} }
sub run_id ($self) { return $self->{run_id} }

sub progress ($self, $fraction, $message = undef, $attributes = undef) {
    $fraction = 1 if builtin::created_as_number($fraction) && $fraction > 1 && $fraction <= 1 + ROUNDING;
    return $self->_emit({ kind => 'progress', progress => $fraction }, $message, $attributes);
}

sub metric ($self, $name, $value) {
    return $self->_emit({ kind => 'metric', name => $name, metrics => ref $value eq 'HASH' ? $value : { $name => $value } });
}

sub log ($self, $message, $severity = 'info', $attributes = undef) {    ## no critic (ProhibitBuiltinHomonyms)
    return $self->_emit({ kind => 'log', severity => $severity }, $message, $attributes);
}

sub _emit ($self, $event, $message = undef, $attributes = undef) {
    $event->{name}     //= $self->{name};
    $event->{message}    = $message    if defined $message;
    $event->{attributes} = $attributes if defined $attributes;
    return $client->()->emit($event, $self);
}

# Add attributes to the event that will end the run.
sub set ($self, %attributes) {
    my %event = (kind => 'log', name => $self->{name}, attributes => \%attributes);
    Monitoring::SDK::Event::encode(\%event, { site_id => '', app => '' }, undef);
    $self->{attributes} = { %{ $self->{attributes} }, %attributes };
    return;
}

# --------------------------------------------------------------------------------------------------------------------- ends

# It went well.
sub finish ($self) {
    $self->_end({ kind => 'finish', status => 'ok' });
    return;
}

sub ok ($self) { return $self->finish }

# It failed, with this exception.
sub fail ($self, $error) {
    $self->_end({ kind => 'error', status => 'failed', error => _described($error) });
    return;
}

# It was broken off, for a reason such as the name of a signal.
sub abort ($self, $type, $message) {
    $self->_end({ kind => 'finish', status => 'aborted', severity => 'warning', error => { type => $type, message => $message } });
    return;
}

# Run code inside the run. What it dies with goes on as it is.
sub call ($self, $code) {
    my $context = wantarray;
    my @result;
    my $before = $@;
    my $is_done = eval {
        if    ($context)         { @result = $code->($self) }
        elsif (defined $context) { $result[0] = $code->($self) }
        else                     { $code->($self) }
        1;
    };
    if (!$is_done) {
        my $error = $@;
        $self->fail($error);
        die $error;    ## no critic (RequireCarping)
    }
    $@ = $before;      ## no critic (RequireLocalizedPunctuationVars)
    $self->finish;
    return $context ? @result : $result[0];
}

# Report the end, once. Never dies: at the end of a block, an error of ours would hide the program's own.
sub _end ($self, $event) {
    return if $self->{is_done}++;
    @active = grep { defined && $_ != $self } @active;
    weaken $_ for @active;
    return if $self->{pid} != $$;    # a forked child leaves its parent's block; the run is the parent's to end
    local ($@, $!, $?, $SIG{__DIE__});
    $event->{name}        = $self->{name};
    $event->{duration_ms} = 0 + sprintf '%.3f', 1000 * (Monitoring::SDK::Retry::now() - $self->{started});
    my %attributes = %{ $self->{attributes} };
    return if eval { $client->()->emit({ %{$event}, %attributes ? (attributes => \%attributes) : () }, $self); 1 };
    # Together they are too large: the end matters more than what was set.
    return if eval { $client->()->emit({ %{$event}, attributes => { truncated => !!1 } }, $self); 1 };
    Monitoring::SDK::Log::say_it('warning', "the end of the run $self->{run_id} of $self->{name} is not reported: $@");
    return;
}

# The end of the scope that holds the guard. Perl does not tell a destructor whether it runs because of `die`; but it sets $@
# before it unwinds an eval, and $? before it unwinds to the end of the process.
sub DESTROY ($self) {
    return if $self->{is_done} || ${^GLOBAL_PHASE} eq 'DESTRUCT';
    my ($error, $status) = ($@, $?);
    if ($status != $self->{status_before} && $status > 0 && $status < 256) {
        $self->abort('exit', "the process ended with status $status");
    }
    elsif (_is_new($error, $self->{error_before})) { $self->fail($error) }
    else                                           { $self->finish }
    return;
}

sub _is_new ($error, $before) {
    return ref $error || length $error && (ref $before || $error ne $before) if !ref $error || !ref $before;
    return Scalar::Util::refaddr($error) != Scalar::Util::refaddr($before);
}

# Report that every open run dies with the process, the innermost first.
sub abort_open ($class, $type, $message) {
    for my $run (reverse grep { defined } @active) { $run->abort($type, $message) }
    return;
}

# End every open run as the process ends with this status.
sub end_open ($class, $status) {
    for my $run (reverse grep { defined } @active) {
        if ($status) { $run->abort('exit', "the process ended with status $status") }
        else         { $run->finish }
    }
    return;
}

# An exception as the event's `error`, whatever its own methods do.
sub _described ($error) {
    my ($type, $message, $stack) = ('die', '', '');
    $type = ref $error if ref $error;
    local ($@, $SIG{__DIE__});
    $message = eval {
        my $own = blessed $error && $error->can('message') ? $error->message : undef;
        defined $own && !ref $own ? "$own" : "$error";
    } // "(its text can't be had)";
    for my $method (qw(stack_trace trace longmess)) {
        last if length $stack;
        $stack = eval { '' . $error->$method } // '' if blessed $error && $error->can($method);
    }
    $stack = $message . Carp::longmess('caught') if !length $stack;
    $message =~ s/\n\z//;
    return {
        type    => substr($type, 0, Monitoring::SDK::Event::MAX_TEXT()),
        message => _shortened($message, LONGEST_ERROR),
        stack   => _shortened($stack,   LONGEST_STACK),
    };
}

# Head and tail of a text that is too long.
sub _shortened ($text, $longest) {
    return $text if length $text <= $longest;
    my $half = int $longest / 2;
    return substr($text, 0, $half) . "\n... " . (length($text) - 2 * $half) . " characters left out ...\n" . substr $text, -$half;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Context - a run that is under way

=head1 SYNOPSIS

    use Monitoring::SDK qw(monitored_context);

    monitored_context('etch', { lot => 'L1', tool => 'E7', recipe => 'OX-12' }, sub ($run) {
        $run->progress(0.5, 'half the wafer');
        $run->metric(temperature => 21.5);
    });

    {
        my $run = monitored_context('etch', { lot => 'L1' });
        ...;
    }    # the run ends here

=head1 DESCRIPTION

A run starts when it is made, and ends once: as C<ok>, or as C<failed> with the exception's type, message and stack, or as
C<aborted> when the process ends in the middle. Every event that is emitted while it is the innermost one carries its C<run_id>,
its C<parent_run_id> and its entities.

=head2 What a guard can know

With a code reference nothing is guessed: what the code dies with is reported and goes on, the same object. A guard, a run held by
a variable of the block, has to find out in its destructor why the block ends, and Perl does not tell. It looks at:

=over

=item *

C<$@>, which Perl sets before it unwinds to an C<eval>: a C<die> in the block that is caught outside of it ends the run as C<failed>.

=item *

C<$?>, which Perl sets before it unwinds to the end of the process: an uncaught C<die> or an C<exit> with a status other than 0 ends it
as C<aborted>.

=back

It is wrong when an C<eval> inside the block has caught an error, left it in C<$@>, and the block then ends well: the run ends as C<failed>.
Then write C<local $@> before that C<eval>, or call C<< $run->finish >> at the end of the block. (C<try> and C<catch>, Perl's own and those of
the usual modules, leave nothing in C<$@>.) It is wrong, too, when the block dies with the very text that was in C<$@> before it began.
C<exit> with status 0 ends a run as C<ok>; a child process that was killed by a signal inside the block leaves its number in C<$?>, which reads
like an exit. Where that matters, give a code reference.

=head1 METHODS

=head2 name, run_id

Its name and its id.

=head2 progress($fraction, $message, \%attributes)

Report how far it is, from 0 to 1; the event's id.

=head2 metric($name, $value), metric($name, \%values)

Report a value, or several under one name; the event's id.

=head2 log($message, $severity, \%attributes)

Report a line of text; the event's id.

=head2 set(%attributes)

Add attributes to the event that will end the run.

=head2 finish, ok

End it well.

=head2 fail($error)

End it as failed; C<$error> is text or an exception object.

=head2 abort($type, $message)

End it as aborted.

=head2 call($code)

Run code inside it and end it, well or as failed; what the code dies with goes on.

=head1 CLASS METHODS

=head2 start($name, \%metadata)

Begin a run; what C<monitored_context> does.

=head2 current

The innermost open run, or C<undef>.

=head2 abort_open, end_open, use_client

Internal.

=cut
