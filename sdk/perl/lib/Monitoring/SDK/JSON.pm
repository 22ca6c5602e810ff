package Monitoring::SDK::JSON;

# Writes JSON as UTF-8 bytes from Perl values, telling numbers, text and booleans apart; reads it by the fastest module there is.

use v5.36;
no warnings 'experimental::builtin';    ## no critic (ProhibitNoWarnings)

use Encode       ();
use Scalar::Util qw(blessed);
use overload     ();

use Monitoring::SDK::Error ();

our $VERSION = '0.1.0';

use constant {
    MAX_DEPTH          => 64,
    MAX_INTEGER_DIGITS => 308,
    INFINITY           => 9**9**9,
};

my %ESCAPE = map { (chr $_, sprintf '\\u%04x', $_) } 0 .. 31;
@ESCAPE{"\n", "\r", "\t", "\b", "\f", q{"}, q{\\}} = qw(\n \r \t \b \f \" \\\\);
$ESCAPE{"\0"} = "\xef\xbf\xbd";    # no store can keep U+0000

my $decoder;

# Characters or bytes as valid UTF-8 bytes; what is no Unicode becomes U+FFFD.
sub utf8_bytes ($text) {
    if (!utf8::is_utf8($text)) {
        return $text if $text !~ /[^\x00-\x7f]/;
        my $copy = $text;
        $text = utf8::decode($copy) ? $copy : Encode::decode('UTF-8', $text, Encode::FB_DEFAULT);
    }
    no warnings qw(surrogate non_unicode nonchar);    ## no critic (ProhibitNoWarnings)
    $text =~ s/[\x{d800}-\x{dfff}]|[^\x{0}-\x{10ffff}]/\x{fffd}/g;
    utf8::encode($text);
    return $text;
}

# A JSON string.
sub text ($text) {
    return qq{"$text"} if $text !~ /[^\x20\x21\x23-\x5b\x5d-\x7e]/;
    my $bytes = utf8_bytes($text);
    $bytes =~ s/(["\\\x00-\x1f])/$ESCAPE{$1}/g;
    return qq{"$bytes"};
}

# A JSON number, exact; undef for NaN and infinities.
sub number ($number) {
    my $shown = "$number";
    return $shown if $shown !~ /[^0-9-]/;
    return        if $shown =~ /[Nn]/;
    return $shown if $shown == $number;
    for my $digits (16, 17) {
        $shown = sprintf '%.*g', $digits, $number;
        last if $shown == $number;
    }
    return $shown;
}

# What a value is called in messages.
sub kind_of ($value) {
    return 'null'    if !defined $value;
    return 'boolean' if is_boolean($value);
    if (my $type = ref $value) {
        return $type eq 'HASH' ? 'object' : $type eq 'ARRAY' ? 'array' : is_big($value) ? 'number' : $type;
    }
    return 'string' if !builtin::created_as_number($value);
    return "$value" =~ /\A-?[0-9]+\z/ ? 'integer' : 'number';
}

sub is_boolean ($value) {
    my $type = ref $value;
    return builtin::is_bool($value) if !$type;
    return 1                        if $type eq 'JSON::PP::Boolean' || $type eq 'Types::Serialiser::Boolean' || $type eq 'boolean';
    return $type eq 'SCALAR' && defined ${$value} && (${$value} eq '1' || ${$value} eq '0');
}

sub is_big ($value) {
    return blessed $value && ($value->isa('Math::BigInt') || $value->isa('Math::BigFloat'));
}

sub truth ($value) {
    return ref $value eq 'SCALAR' ? ${$value} eq '1' : !!$value;
}

# JSON of a number object of Math::BigInt or Math::BigFloat; undef for NaN and infinities.
sub big ($path, $value) {
    return if $value->is_nan || $value->is_inf;
    my $shown = $value->is_int ? $value->copy->bfloor->bstr : $value->bsstr;
    refuse($path, 'integer of more than ' . MAX_INTEGER_DIGITS . ' digits') if ($shown =~ tr/0-9//) > MAX_INTEGER_DIGITS;
    return $shown;
}

# JSON of any value; dies for what has none. `depth` is that of the value, the whole event being 1.
sub value ($path, $value, $depth) {
    return 'null' if !defined $value;
    my $type = ref $value;
    if (!$type) {
        return number($value) // 'null' if builtin::created_as_number($value);
        return $value ? 'true' : 'false' if builtin::is_bool($value);
        return text($value);
    }
    if ($type eq 'HASH') {
        _too_deep($path) if $depth > MAX_DEPTH;
        return '{' . join(',', map { text($_) . ':' . value("$path.$_", $value->{$_}, $depth + 1) } sort keys %{$value}) . '}';
    }
    if ($type eq 'ARRAY') {
        _too_deep($path) if $depth > MAX_DEPTH;
        my $place = 0;
        return '[' . join(',', map { value("$path." . $place++, $_, $depth + 1) } @{$value}) . ']';
    }
    return truth($value) ? 'true' : 'false' if is_boolean($value);
    return _object($path, $value, $depth) if blessed $value;
    refuse($path, "expected JSON, got $type; convert it first");
    return;
}

sub _object ($path, $value, $depth) {
    return big($path, $value) // 'null' if is_big($value);
    _too_deep($path) if $depth > MAX_DEPTH;    # an object that gives itself
    return value($path, $value->TO_JSON, $depth + 1) if $value->can('TO_JSON');
    return text("$value") if overload::Method($value, q{""});
    refuse($path, 'expected JSON, got an object of ' . ref($value) . '; convert it first');
    return;
}

sub _too_deep ($path) {
    refuse($path =~ s/[.].*//sr, 'nests deeper than ' . MAX_DEPTH . ' levels');
    return;
}

sub refuse ($path, $error) {
    my $shown = utf8_bytes($path);
    utf8::decode($shown);
    Monitoring::SDK::Error::InvalidEvent->throw(path => $shown, error => $error);
    return;
}

# The value of JSON text in bytes. Dies when it is none.
sub decode ($bytes) {
    $decoder //= _decoder();
    return $decoder->decode($bytes);
}

sub _decoder () {
    local ($@, $SIG{__DIE__});
    for my $module (qw(Cpanel::JSON::XS JSON::XS)) {
        return $module->new->utf8->allow_nonref if eval "require $module; 1";    ## no critic (ProhibitStringyEval)
    }
    require JSON::PP;
    return JSON::PP->new->utf8->allow_nonref;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::JSON - Perl values as JSON, and back

=head1 DESCRIPTION

Internal. A number is what was made as a number (a literal, a result of arithmetic, C<0 + $text>); text stays text even when it
looks like a number or is used as one later. Booleans are Perl's own (C<!!1>, the result of a comparison), C<\1> and C<\0>, and
the objects of the JSON modules. C<undef> is null. Text without Perl's UTF-8 flag is taken as UTF-8 bytes where it is valid.

=head1 FUNCTIONS

=head2 utf8_bytes($text)

Valid UTF-8 bytes; what is no Unicode becomes U+FFFD.

=head2 text($text)

A JSON string; U+0000 becomes U+FFFD.

=head2 number($number)

A JSON number with just enough digits; C<undef> for NaN and infinities.

=head2 big($path, $value)

A JSON number of a L<Math::BigInt> or L<Math::BigFloat>.

=head2 value($path, $value, $depth)

JSON of any value; dies with the path of what has none.

=head2 kind_of($value)

What a value is called in messages: C<string>, C<integer>, C<null> and so on.

=head2 is_boolean($value), is_big($value), truth($value)

Whether a value is a boolean; whether it is a big number; whether a boolean is true.

=head2 refuse($path, $error)

Dies with a L<Monitoring::SDK::Error>.

=head2 decode($bytes)

The value of JSON text in UTF-8.

=cut
