package Monitoring::SDK::Event;

# From what a program hands over to the event's JSON: checked against the contract at once, mended where the contract allows it.

use v5.36;
no warnings 'experimental::builtin';    ## no critic (ProhibitNoWarnings)

use Scalar::Util qw(blessed looks_like_number);
use overload     ();

use Monitoring::SDK::Error  ();
use Monitoring::SDK::JSON   ();
use Monitoring::SDK::Schema ();

our $VERSION = '0.1.0';

use constant {
    MAX_EVENT_BYTES   => 256 * 1024,
    MAX_MESSAGE_BYTES => 8 * 1024,
    MAX_TEXT          => 256,
    MAX_SITE          => 64,
    FIRST_YEAR        => 1970,
    LAST_YEAR         => 2099,
};

my @KINDS    = qw(start progress finish error metric log state);
my @ANY_KIND = qw(
    event_id timestamp kind name site_id app run_id parent_run_id entities severity message metrics trace_id span_id attributes
);
my %KIND_FIELDS = (
    status      => [qw(finish error)],
    duration_ms => [qw(finish error)],
    error       => [qw(finish error)],
    progress    => ['progress'],
    state       => ['state'],
);
my %ALLOWED;
for my $kind (@KINDS) {
    my @own = grep { my $field = $_; grep { $_ eq $kind } @{ $KIND_FIELDS{$field} } } keys %KIND_FIELDS;
    $ALLOWED{$kind} = { map { ($_ => 1) } @ANY_KIND, @own };
}
my %CHOICES = (
    kind     => \@KINDS,
    status   => [qw(ok failed aborted)],
    severity => [qw(debug info warning error critical)],
);
my %IS_CHOICE = map { ($_ => { map { ($_ => 1) } @{ $CHOICES{$_} } }) } keys %CHOICES;

my $UUID      = qr/\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\z/;
my $TIMESTAMP = qr/\A([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})
                   ([.][0-9]+)?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))\z/x;

my %FIELD = (
    event_id      => \&_uuid,
    timestamp     => \&_timestamp,
    kind          => \&_choice,
    name          => \&_short,
    site_id       => sub ($path, $value) { _short($path, $value, MAX_SITE) },
    app           => _struct(['name'], name => \&_short, version => \&_short, instance_id => \&_short),
    run_id        => \&_uuid,
    parent_run_id => \&_uuid,
    entities      => \&_entities,
    status        => \&_choice,
    severity      => \&_choice,
    progress      => \&_progress,
    duration_ms   => \&_duration,
    state         => _struct(['to'], to => \&_short, from => \&_short),
    error         => _struct([qw(type message)], type => \&_short, message => \&_text, stack => \&_text),
    trace_id      => sub ($path, $value) { _hex($path, $value, 32) },
    span_id       => sub ($path, $value) { _hex($path, $value, 16) },
);

# The JSON of an event's own fields, each followed by a comma but the last; then its id and whether it has a timestamp, when
# the program gave them. `origin` and `run` are texts for the fields that it leaves out.
sub encode ($event, $origin, $run) {
    _not_a_hash($event) if ref $event ne 'HASH' && !(blessed $event && $event->isa('HASH'));
    my $kind = $event->{kind};
    my $allowed
        = defined $kind && !ref $kind && exists $event->{name} && $ALLOWED{$kind} || _without_kind($event);
    $allowed->{$_} or _unknown_field($event, $allowed) for keys %{$event};

    my @parts;
    push @parts, $origin->{site_id} if !exists $event->{site_id};
    push @parts, $origin->{app}     if !exists $event->{app};
    my ($message, %extra);
    for my $field (sort keys %{$event}) {
        my $value = $event->{$field};
        if ($field eq 'metrics') {
            my ($text, @dropped) = _metrics($value);
            push @parts, qq{"metrics":$text};
            $extra{dropped_metrics} = \@dropped if @dropped;
        }
        elsif ($field eq 'message') {
            ($message, my $is_cut) = _message($value);
            push @parts, qq{"message":$message};
            $extra{truncated} = !!1 if $is_cut;
        }
        elsif ($field eq 'entities') {
            my $text = _entities($field, $value);
            $text = _entities($field, { %{ $run->{entities} }, %{$value} }) if $run && %{ $run->{entities} };
            push @parts, qq{"entities":$text};
        }
        elsif ($field ne 'attributes') {
            push @parts, qq{"$field":} . $FIELD{$field}->($field, $value);
        }
    }
    if (exists $event->{attributes} || %extra) {
        my $table = exists $event->{attributes} ? _object('attributes', $event->{attributes}) : {};
        push @parts, '"attributes":' . Monitoring::SDK::JSON::value('attributes', { %{$table}, %extra }, 2);
    }
    if ($run) {
        if (!exists $event->{run_id}) {
            push @parts, $run->{id_text};
            push @parts, $run->{parent_text} if length $run->{parent_text} && !exists $event->{parent_run_id};
        }
        push @parts, $run->{entities_text} if length $run->{entities_text} && !exists $event->{entities};
    }
    if (!exists $event->{trace_id} && !exists $event->{span_id} && $INC{'OpenTelemetry/Trace.pm'}) {
        push @parts, _trace_ids();
    }
    _required('state', $event) if $kind eq 'state';
    return (join(',', @parts), $event->{event_id}, exists $event->{timestamp});
}

sub _not_a_hash ($event) {
    my $kind = Monitoring::SDK::JSON::kind_of($event);
    Monitoring::SDK::JSON::refuse('', "expected a hash such as {kind => 'log', name => 'etch'}, got $kind");
    return;
}

# What is wrong with kind and name.
sub _without_kind ($event) {
    _required($_, $event) for qw(kind name);
    _choice('kind', $event->{kind});
    return;
}

sub _required ($field, $event) {
    Monitoring::SDK::JSON::refuse($field, 'required field is missing') if !exists $event->{$field};
    return;
}

sub _unknown_field ($event, $allowed) {
    my ($field) = sort grep { !$allowed->{$_} } keys %{$event};
    if (my $kinds = $KIND_FIELDS{$field}) {
        my $shown = join ' or ', @{$kinds};
        Monitoring::SDK::JSON::refuse($field, "is only allowed on kind $shown, not on $event->{kind}");
    }
    Monitoring::SDK::JSON::refuse($field, 'is made by the SDK; leave it out') if $field eq 'emitter';
    my $close = Monitoring::SDK::Schema::closest($field, @ANY_KIND, keys %KIND_FIELDS);
    my $hint  = defined $close ? "did you mean '$close'?" : "put data of your own under 'attributes'";
    Monitoring::SDK::JSON::refuse($field, "unknown field; $hint");
    return;
}

sub _wrong ($path, $expected, $value) {
    Monitoring::SDK::JSON::refuse($path, "expected $expected, got " . Monitoring::SDK::JSON::kind_of($value));
    return;
}

# ------------------------------------------------------------------------------------------------------------------- text

sub _plain ($path, $value) {
    if (!defined $value || ref $value || builtin::created_as_number($value) || builtin::is_bool($value)) {
        return "$value" if blessed $value && !Monitoring::SDK::JSON::is_boolean($value) && !Monitoring::SDK::JSON::is_big($value)
            && overload::Method($value, q{""});
        _wrong($path, 'string', $value);
    }
    return $value;
}

sub _text ($path, $value) {
    return Monitoring::SDK::JSON::text(_plain($path, $value));
}

sub _short ($path, $value, $longest = MAX_TEXT) {
    my $text = _plain($path, $value);
    if (length $text > $longest || !length $text) {
        Monitoring::SDK::JSON::refuse($path, 'expected at least 1 character(s)') if !length $text;
        my $bytes = Monitoring::SDK::JSON::utf8_bytes($text);
        my $count = length($bytes) - ($bytes =~ tr/\x80-\xbf//);
        Monitoring::SDK::JSON::refuse($path, "expected at most $longest character(s)") if $count > $longest;
    }
    return Monitoring::SDK::JSON::text($text);
}

sub _choice ($path, $value) {
    my $text = _plain($path, $value);
    if (!$IS_CHOICE{$path}{$text}) {
        Monitoring::SDK::JSON::refuse($path, 'expected one of ' . join(', ', @{ $CHOICES{$path} }) . ", got '$text'");
    }
    return qq{"$text"};
}

sub _uuid ($path, $value) {
    my $text = _plain($path, $value);
    if ($text !~ $UUID) {
        Monitoring::SDK::JSON::refuse($path, 'expected a UUID in lower case, such as 01890a5d-ac96-774b-bcce-b302099a8057');
    }
    return qq{"$text"};
}

sub _hex ($path, $value, $digits) {
    my $text = _plain($path, $value);
    if ($text !~ /\A[0-9a-f]{$digits}\z/) {
        Monitoring::SDK::JSON::refuse($path, "expected $digits lower-case hexadecimal digits");
    }
    return qq{"$text"};
}

# The JSON of a message, and whether it had to be cut.
sub _message ($value) {
    my $text = _plain('message', $value);
    return Monitoring::SDK::JSON::text($text) if length($text) * 4 <= MAX_MESSAGE_BYTES;
    my $bytes = Monitoring::SDK::JSON::utf8_bytes($text =~ s/\0/\x{fffd}/gr);
    return Monitoring::SDK::JSON::text($bytes) if length $bytes <= MAX_MESSAGE_BYTES;
    my $end = MAX_MESSAGE_BYTES;
    --$end while substr($bytes, $end, 1) =~ /[\x80-\xbf]/;
    return (Monitoring::SDK::JSON::text(substr $bytes, 0, $end), 1);
}

# ------------------------------------------------------------------------------------------------------------------- time

sub _timestamp ($path, $value) {
    return _moment_of($path, $value) if blessed $value && $value->can('epoch');
    my $text = _plain($path, $value);
    my $year = _utc_year($text);
    if (!defined $year) {
        Monitoring::SDK::JSON::refuse($path, 'expected an RFC 3339 timestamp with offset, such as 2026-01-31T12:00:00.000Z');
    }
    if ($year < FIRST_YEAR || $year > LAST_YEAR) {
        Monitoring::SDK::JSON::refuse($path, "expected a moment from 1970 to 2099, got year $year");
    }
    return qq{"$text"};
}

# The year in UTC of a timestamp; undef when it is none.
sub _utc_year ($text) {
    my ($year, $month, $day, $hour, $minute, $second, $fraction, $sign, $hours, $minutes) = $text =~ $TIMESTAMP or return;
    my $leap = $year % 4 == 0 && ($year % 100 != 0 || $year % 400 == 0);
    my @days = (31, $leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31);
    return if $year < 1 || $month < 1 || $month > 12 || $day < 1 || $day > $days[$month - 1];
    return if $hour > 23 || $minute > 59 || $second > 59;
    return $year + 0 if !defined $sign;
    return if $hours > 23 || $minutes > 59;
    my $offset = ($sign eq '-' ? -60 : 60) * ($hours * 60 + $minutes);
    my $moment = $hour * 3600 + $minute * 60 + $second - $offset;
    return $year - 1 if $moment < 0      && $month == 1  && $day == 1  && $year > 1;
    return $year + 1 if $moment >= 86400 && $month == 12 && $day == 31 && $year < 9999;
    return $year + 0;
}

# A moment of DateTime, Time::Piece, Time::Moment and the like.
sub _moment_of ($path, $value) {
    my $seconds = $value->epoch;
    my $micros
        = $value->can('nanosecond') ? int($value->nanosecond / 1000)
        : $value->can('hires_epoch') ? int(1e6 * ($value->hires_epoch - $seconds))
        :                              0;
    my @utc = gmtime $seconds;
    return _timestamp($path, sprintf '%04d-%02d-%02dT%02d:%02d:%02d.%06dZ', $utc[5] + 1900, $utc[4] + 1, @utc[3, 2, 1, 0], $micros);
}

# ---------------------------------------------------------------------------------------------------------------- numbers

# A number's JSON; undef for NaN and infinities.
sub _number ($path, $value) {
    if (ref $value) {
        _wrong($path, 'number', $value) if !Monitoring::SDK::JSON::is_big($value);
        return Monitoring::SDK::JSON::big($path, $value);
    }
    if (!builtin::created_as_number($value)) {
        my $hint = Monitoring::SDK::JSON::kind_of($value) eq 'string' && looks_like_number($value);
        Monitoring::SDK::JSON::refuse($path, 'expected number, got string; write 0 + $value') if $hint;
        _wrong($path, 'number', $value);
    }
    return Monitoring::SDK::JSON::number($value);
}

sub _progress ($path, $value) {
    my $text = _number($path, $value);
    Monitoring::SDK::JSON::refuse($path, 'expected a number not below 0') if !defined $text || $value < 0;
    Monitoring::SDK::JSON::refuse($path, 'expected a number not above 1') if $value > 1;
    return $text;
}

sub _duration ($path, $value) {
    my $text = _number($path, $value);
    Monitoring::SDK::JSON::refuse($path, 'expected a number not below 0') if !defined $text || $value < 0;
    return $text;
}

# ------------------------------------------------------------------------------------------------------------------- maps

sub _object ($path, $value) {
    _wrong($path, 'object', $value) if ref $value ne 'HASH' && !(blessed $value && $value->isa('HASH'));
    return $value;
}

sub _key ($path, $key) {
    if (!length $key || length $key > MAX_TEXT) {
        my $bytes = Monitoring::SDK::JSON::utf8_bytes($key);
        my $count = length($bytes) - ($bytes =~ tr/\x80-\xbf//);
        Monitoring::SDK::JSON::refuse($path, 'expected keys of 1 to ' . MAX_TEXT . ' characters') if !$count || $count > MAX_TEXT;
    }
    return Monitoring::SDK::JSON::text($key);
}

sub _entities ($path, $value) {
    my $table = _object($path, $value);
    return '{' . join(',', map { _key($path, $_) . ':' . _short("$path.$_", $table->{$_}) } sort keys %{$table}) . '}';
}

# The JSON of metrics, and the names of those that had to be left out.
sub _metrics ($value) {
    my $table = _object('metrics', $value);
    my (@parts, @dropped);
    for my $name (sort keys %{$table}) {
        my $key  = _key('metrics', $name);
        my $text = _number("metrics.$name", $table->{$name});
        if (defined $text) { push @parts,   "$key:$text" }
        else               { push @dropped, $name }
    }
    return ('{' . join(',', @parts) . '}', @dropped);
}

# A check of an object with these fields and no others.
sub _struct ($required, %checks) {
    return sub ($path, $value) {
        my $given = _object($path, $value);
        for my $field (@{$required}) {
            Monitoring::SDK::JSON::refuse("$path.$field", 'required field is missing') if !exists $given->{$field};
        }
        my @parts;
        for my $field (sort keys %{$given}) {
            my $check = $checks{$field}
                or Monitoring::SDK::JSON::refuse("$path.$field", "unknown field; put data of your own under 'attributes'");
            push @parts, qq{"$field":} . $check->("$path.$field", $given->{$field});
        }
        return '{' . join(',', @parts) . '}';
    };
}

# The ids of the active span of OpenTelemetry, when the program uses that.
sub _trace_ids () {
    local ($@, $SIG{__DIE__});
    my @ids = eval {
        my $context = OpenTelemetry::Trace->span_from_context->context;
        $context->valid ? ($context->hex_trace_id, $context->hex_span_id) : ();
    };
    return @ids == 2 ? (qq{"trace_id":"$ids[0]"}, qq{"span_id":"$ids[1]"}) : ();
}

# Texts of the fields that a configuration gives to every event.
sub origin ($app) {
    my %app = map { ($_ => $app->{$_}) } grep { defined $app->{$_} } qw(name version instance_id);
    return { site_id => '"site_id":' . _short('site_id', $app->{site_id}), app => '"app":' . $FIELD{app}->('app', \%app) };
}

# Texts of the fields that a run gives to every event inside it.
sub run_texts ($run) {
    my %entities = %{ $run->{entities} };
    return (
        id_text       => qq{"run_id":"$run->{run_id}"},
        parent_text   => defined $run->{parent_run_id} ? qq{"parent_run_id":"$run->{parent_run_id}"} : '',
        entities_text => %entities ? '"entities":' . _entities('entities', \%entities) : '',
    );
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Event - checks an event and writes its JSON

=head1 DESCRIPTION

Internal; see L<Monitoring::SDK/EVENTS> for what an event is. Mended: NaN and infinities (metrics are left out and named in the
attribute C<dropped_metrics>; in attributes they become null), text that is not valid Unicode and U+0000 (each such character
becomes U+FFFD), a message over 8 KiB (cut, with the attribute C<truncated>).

=head1 FUNCTIONS

=head2 encode(\%event, \%origin, \%run)

The JSON of an event's fields, the C<event_id> that the program gave, and whether it gave a C<timestamp>. Dies with a
L<Monitoring::SDK::Error> for the first mistake.

=head2 origin(\%app)

Texts of the fields that the configuration gives.

=head2 run_texts(\%run)

Texts of the fields that a run gives.

=cut
