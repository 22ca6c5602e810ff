package Monitoring::SDK::Schema;

# Checks a configuration against the JSON Schema that all languages share, and names every mistake.

use v5.36;
no warnings 'experimental::builtin';    ## no critic (ProhibitNoWarnings)

use List::Util qw(min);

use Monitoring::SDK::JSON ();

our $VERSION = '0.1.0';

my $schema;

# The schema of the configuration.
sub schema () {
    if (!$schema) {
        my $file = __FILE__ =~ s/Schema[.]pm\z/config.schema.json/r;
        open my $in, '<:raw', $file or die "can't read $file: $!; install the module anew\n";
        my $text = do { local $/ = undef; <$in> };
        close $in;
        $schema = Monitoring::SDK::JSON::decode($text);
    }
    return $schema;
}

# Every way in which a value breaks the rules, in the order of the paths.
sub check ($rules, $value) {
    my %seen;
    my @found = grep { !$seen{"$_->{path}\0$_->{message}"}++ } _check($rules, $value, '', $rules);
    return sort { $a->{path} cmp $b->{path} || $a->{message} cmp $b->{message} } @found;
}

# A valid value with the schema's defaults in the places that it leaves out.
sub with_defaults ($rules, $value) {
    my %full = %{ $value // {} };
    my $properties = $rules->{properties} // {};
    for my $key (keys %{$properties}) {
        my $entry = $properties->{$key};
        if ($entry->{properties}) { $full{$key} = with_defaults($entry, $full{$key}) }
        elsif (!exists $full{$key} && exists $entry->{default}) { $full{$key} = $entry->{default} }
    }
    return \%full;
}

# Whether a place in the configuration takes text.
sub takes_text (@path) {
    my $node = schema();
    $node = $node->{properties}{$_} // {} for @path;
    return !ref $node->{type} && ($node->{type} // '') eq 'string';
}

sub _check ($rules, $value, $path, $root) {
    $rules = _resolve($rules->{'$ref'}, $root) if $rules->{'$ref'};
    if (defined $rules->{type}) {
        my @wanted = ref $rules->{type} ? @{ $rules->{type} } : $rules->{type};
        if (!grep { _is($value, $_) } @wanted) {
            return _problem($path, 'expected ' . join(' or ', @wanted) . ', got ' . _shown($value));
        }
    }
    my @found = _check_scalar($rules, $value, $path);
    if (ref $value eq 'HASH') { push @found, _check_object($rules, $value, $path, $root) }
    elsif (ref $value eq 'ARRAY') {
        push @found, map { _check($rules->{items} // {}, $value->[$_], "${path}[$_]", $root) } 0 .. $#{$value};
    }
    push @found, _check($_, $value, $path, $root) for @{ $rules->{allOf} // [] };
    if ($rules->{if} && !_check($rules->{if}, $value, $path, $root)) {
        push @found, _check($rules->{then} // {}, $value, $path, $root);
    }
    return @found;
}

sub _check_scalar ($rules, $value, $path) {
    my @found;
    if ($rules->{enum} && !grep { _equal($value, $_) } @{ $rules->{enum} }) {
        push @found, _problem($path, 'expected one of ' . join(', ', @{ $rules->{enum} }) . ', got ' . _shown($value));
    }
    if (exists $rules->{const} && !_equal($value, $rules->{const})) {
        push @found, _problem($path, "expected $rules->{const}, got " . _shown($value));
    }
    if (_is($value, 'string')) {
        if (defined $rules->{pattern} && $value !~ /$rules->{pattern}/) {
            my $hint = $rules->{description} // "text like $rules->{pattern}";
            push @found, _problem($path, "expected $hint, got " . _shown($value));
        }
        my ($least, $most) = @{$rules}{qw(minLength maxLength)};
        push @found, _problem($path, "expected at least $least character(s)") if defined $least && length $value < $least;
        if (defined $most && length $value > $most) {
            push @found, _problem($path, "expected at most $most characters, got " . length $value);
        }
    }
    elsif (_is($value, 'number')) {
        my %bounds = (
            minimum          => ['at least',  sub ($bound) { $value >= $bound }],
            maximum          => ['at most',   sub ($bound) { $value <= $bound }],
            exclusiveMinimum => ['more than', sub ($bound) { $value > $bound }],
            exclusiveMaximum => ['less than', sub ($bound) { $value < $bound }],
        );
        for my $keyword (grep { defined $rules->{$_} } sort keys %bounds) {
            my ($words, $is_kept) = @{ $bounds{$keyword} };
            next if $is_kept->($rules->{$keyword});
            push @found, _problem($path, "expected $words $rules->{$keyword}, got " . _shown($value));
        }
    }
    return @found;
}

sub _check_object ($rules, $value, $path, $root) {
    my $known = $rules->{properties} // {};
    my @found = map { _problem(_join($path, $_), 'required but missing') } grep { !exists $value->{$_} } @{ $rules->{required} // [] };
    for my $key (sort keys %{$value}) {
        if ($known->{$key}) { push @found, _check($known->{$key}, $value->{$key}, _join($path, $key), $root) }
        elsif (exists $rules->{additionalProperties} && !$rules->{additionalProperties}) {
            my $close = closest($key, sort keys %{$known});
            my $hint  = defined $close ? "did you mean $close?" : 'known here: ' . (join(', ', sort keys %{$known}) || 'none');
            push @found, _problem(_join($path, $key), "unknown key; $hint");
        }
    }
    return @found;
}

sub _is ($value, $type) {
    return ref $value eq 'HASH'  if $type eq 'object';
    return ref $value eq 'ARRAY' if $type eq 'array';
    return !defined $value       if $type eq 'null';
    return 0                     if !defined $value;
    my $is_boolean = Monitoring::SDK::JSON::is_boolean($value);
    return $is_boolean if $type eq 'boolean' || $is_boolean;
    return 0           if ref $value;
    my $is_number = builtin::created_as_number($value);
    return !$is_number if $type eq 'string';
    return 0           if !$is_number || !defined Monitoring::SDK::JSON::number($value);
    return $type eq 'number' || $value == int $value;
}

sub _equal ($value, $other) {
    return 0 if !defined $value || ref $value && !Monitoring::SDK::JSON::is_boolean($value);
    if (Monitoring::SDK::JSON::is_boolean($other) || Monitoring::SDK::JSON::is_boolean($value)) {
        return 0 if !Monitoring::SDK::JSON::is_boolean($other) || !Monitoring::SDK::JSON::is_boolean($value);
        return Monitoring::SDK::JSON::truth($value) == Monitoring::SDK::JSON::truth($other);
    }
    return $value eq $other;
}

sub _resolve ($reference, $root) {
    my $node = $root;
    $node = $node->{$_} for split m{/}, $reference =~ s{\A\#/}{}r;
    return $node;
}

sub _problem ($path, $message) { return { path => $path, message => $message } }
sub _join    ($path, $key)     { return length $path ? "$path.$key" : $key }

# A value in a message: short, and only its kind where it could hold a secret.
sub _shown ($value) {
    return 'a mapping' if ref $value eq 'HASH';
    return 'a list'    if ref $value eq 'ARRAY';
    my $text = Monitoring::SDK::JSON::value('', $value, 1);
    utf8::decode($text);
    return length $text <= 60 ? $text : substr($text, 0, 57) . '...';
}

# The known word that is nearest to a misspelled one; undef when none is near.
sub closest ($word, @known) {
    my ($best, $least);
    for my $candidate (@known) {
        my $distance = _distance($word, $candidate);
        ($best, $least) = ($candidate, $distance) if !defined $least || $distance < $least;
    }
    return defined $least && $least <= (length $word) / 3 ? $best : undef;
}

# Levenshtein's distance.
sub _distance ($one, $other) {
    return length $one if length $one > 64;
    my @before = (0 .. length $other);
    for my $row (1 .. length $one) {
        my @here = ($row);
        for my $column (1 .. length $other) {
            my $differs = substr($one, $row - 1, 1) ne substr($other, $column - 1, 1);
            push @here, min($before[$column] + 1, $here[-1] + 1, $before[$column - 1] + $differs);
        }
        @before = @here;
    }
    return $before[-1];
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Schema - checks the configuration against its JSON Schema

=head1 DESCRIPTION

Internal. Knows the part of JSON Schema 2020-12 that F<config.schema.json> uses; that file is the same in all languages.

=head1 FUNCTIONS

=head2 schema

The schema of the configuration.

=head2 check(\%rules, $value)

Every mistake, as hashes with C<path> and C<message>, in the order of the paths.

=head2 with_defaults(\%rules, \%value)

The value with the schema's defaults in the places that it leaves out.

=head2 takes_text(@path)

Whether the place in the configuration takes text.

=head2 closest($word, @known)

The known word that is nearest to a misspelled one, or C<undef>.

=cut
