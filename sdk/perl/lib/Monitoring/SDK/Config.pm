package Monitoring::SDK::Config;

# Where the configuration comes from: defaults, then a file, then the environment, then arguments; later wins.

use v5.36;

use B           ();
use Cwd         ();
use File::Basename qw(dirname);
use File::Spec  ();
use List::Util  qw(min);

use Monitoring::SDK::Backends ();
use Monitoring::SDK::Error    ();
use Monitoring::SDK::JSON     ();
use Monitoring::SDK::Schema   ();

our $VERSION = '0.1.0';

use constant {
    DEFAULT_FILE    => 'monitoring-config.yaml',
    LONGEST_TIMEOUT => 86_400,
    BACKEND_TIMEOUT => 30,
};

my $VARIABLE = qr/\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}/;

# The settings: a hash with `mode`, `sidecar`, `queue`, `app` and `backends`. `config` is the name of a file, a hash with the
# key `sdk`, or undef. Dies with every mistake.
sub load ($config = undef, $environment = \%ENV) {
    my (@problems, %merged, $file);
    $file = _file($config, $environment);
    my $base = defined $file ? dirname(File::Spec->rel2abs($file)) : undef;
    if (defined $file) {
        my $document = _interpolated(_read($file), $environment, '', \@problems);
        _anchor($document, $base);
        _merge(\%merged, $document);
    }
    for my $name (sort grep { /\AMONITORING_SDK__./ } keys %{$environment}) {
        my @path = ('sdk', split /__/, lc substr $name, length 'MONITORING_SDK__');
        my $text = _characters($environment->{$name});
        _set(\%merged, Monitoring::SDK::Schema::takes_text(@path) ? $text : _typed($text), @path);
    }
    _merge(\%merged, _interpolated($config, $environment, '', \@problems)) if ref $config eq 'HASH';
    return _checked(\%merged, $file // 'the configuration', $base, @problems);
}

sub _checked ($document, $source, $base, @problems) {
    my $schema = Monitoring::SDK::Schema::schema();
    push @problems, Monitoring::SDK::Schema::check($schema, $document), _check_url($document), _check_backends($document, $base);
    if (@problems) {
        my %seen;    # of several at one place, the first explains the others
        my @first = sort { $a->{path} cmp $b->{path} } grep { !$seen{ $_->{path} }++ } @problems;
        Monitoring::SDK::Error::Configuration->throw(source => $source, problems => \@first);
    }
    return _settings(Monitoring::SDK::Schema::with_defaults($schema, $document)->{sdk}, $base);
}

sub _check_url ($document) {
    my $sdk     = ref $document->{sdk} eq 'HASH'   ? $document->{sdk} : {};
    my $sidecar = ref $sdk->{sidecar} eq 'HASH' ? $sdk->{sidecar}  : {};
    my $url     = $sidecar->{url};
    return if !defined $url || ref $url || $url !~ m{\Ahttps?://} || _is_sound_url($url);
    return { path => 'sdk.sidecar.url', message => qq{expected a URL such as http://localhost:17000, got "$url"} };
}

sub _is_sound_url ($url) {
    my ($port) = $url =~ m{\Ahttps?://(?:[^/@\s]*@)?(?:\[[0-9A-Fa-f:.]+\]|[^/:\s\[\]]+)(?::([0-9]*))?(?:[/?]|\z)} or return 0;
    return !length($port // '') || $port > 0 && $port <= 65_535;
}

# What a schema can't tell of the backends of direct mode.
sub _check_backends ($document, $base) {
    my $sdk = $document->{sdk};
    return if ref $sdk ne 'HASH' || ref $sdk->{mode} || ($sdk->{mode} // '') ne 'direct';
    my $entries = $sdk->{direct_backends} // [];
    return if ref $entries ne 'ARRAY';
    my @enabled;
    for my $place (0 .. $#{$entries}) {
        my $entry = $entries->[$place];
        push @enabled, [$place, $entry] if ref $entry eq 'HASH' && defined $entry->{type} && !ref $entry->{type} && _is_enabled($entry);
    }
    my $none = 'expected at least one backend that is enabled, since sdk.mode is direct';
    return { path => 'sdk.direct_backends', message => $none } if !@enabled;
    my (@found, %names);
    for (@enabled) {
        my ($place, $entry) = @{$_};
        my $path = "sdk.direct_backends[$place]";
        my $name = $entry->{name} // $entry->{type};
        if (defined $names{$name}) {
            my $first = "sdk.direct_backends[$names{$name}]";
            push @found, { path => "$path.name", message => "'$name' is $first already; give one of them another `name`" };
        }
        $names{$name} //= $place;
        if (($entry->{delivery} // '') eq 'fallback' && !grep { _priority($_->[1]) < _priority($entry) } @enabled) {
            my $message = 'a fallback needs an enabled backend with a lower `priority` number to stand in for';
            push @found, { path => "$path.delivery", message => $message };
        }
        my $config = $entry->{config} // {};
        push @found, map { { path => "$path.$_->[0]", message => $_->[1] } }
            Monitoring::SDK::Backends::problems($entry->{type}, $config, $base) if ref $config eq 'HASH';
    }
    return @found;
}

sub _is_enabled ($entry) {
    my $enabled = $entry->{enabled} // return 1;
    return Monitoring::SDK::JSON::is_boolean($enabled) && Monitoring::SDK::JSON::truth($enabled);
}

sub _priority ($entry) {
    my $priority = $entry->{priority} // 100;
    return !ref $priority && $priority =~ /\A[0-9.]+\z/ ? $priority : 100;
}

sub _settings ($sdk, $base) {
    my ($sidecar, $queue, $app) = @{$sdk}{qw(sidecar queue app)};
    my @enabled = $sdk->{mode} eq 'direct' ? grep { _is_enabled($_) } @{ $sdk->{direct_backends} } : ();
    my @backends = map { {
        name     => _trusted($_->{name} // $_->{type}),
        type     => $_->{type},
        priority => _priority($_),
        fallback => ($_->{delivery} // 'always') eq 'fallback',
        timeout  => min($_->{timeout} // ($_->{type} eq 'sidecar' ? $sidecar->{timeout} : BACKEND_TIMEOUT), LONGEST_TIMEOUT),
        retries  => $sidecar->{retries},
        config   => $_->{config} // {},
        base     => $base,
    } } sort { _priority($a) <=> _priority($b) } @enabled;
    return {
        mode    => $sdk->{mode},
        sidecar => {
            url             => _trusted($sidecar->{url}),
            timeout         => min($sidecar->{timeout}, LONGEST_TIMEOUT),
            retries         => int $sidecar->{retries},
            enable_spooling => Monitoring::SDK::JSON::truth($sidecar->{enable_spooling}),
            spool_dir       => _trusted(File::Spec->rel2abs(_at_home(_bytes($sidecar->{spool_dir})))),
            token           => $sidecar->{token},
        },
        queue => {
            max_events     => int $queue->{max_events},
            batch_size     => int $queue->{batch_size},
            flush_interval => min($queue->{flush_interval}, LONGEST_TIMEOUT),
            on_full        => $queue->{on_full},
        },
        app => {
            name        => $app->{name},
            site_id     => $app->{site_id},
            version     => defined $app->{version} ? "$app->{version}" : undef,
            instance_id => $app->{instance_id},
        },
        backends => \@backends,
    };
}

# The operator who writes the configuration decides where the SDK writes to and what it talks to, also under -T.
sub _trusted ($text) {
    return ($text =~ /\A(.*)\z/s)[0];
}

sub _at_home ($path) {
    my $home = $ENV{HOME} // '';
    return length $home ? $path =~ s{\A~(?=/|\z)}{$home}r : $path;
}

sub _bytes ($text) {
    utf8::encode($text) if utf8::is_utf8($text);
    return $text;
}

sub _characters ($bytes) {
    utf8::decode($bytes);
    return $bytes;
}

# ------------------------------------------------------------------------------------------------------------- the file

# The file to read; one that was named must exist, the default one need not.
sub _file ($config, $environment) {
    return "$config" if defined $config && ref $config ne 'HASH';
    return $environment->{MONITORING_CONFIG} if length($environment->{MONITORING_CONFIG} // '');
    return -f DEFAULT_FILE ? DEFAULT_FILE : undef;
}

sub _read ($file) {
    my $wrong = sub ($message) {
        Monitoring::SDK::Error::Configuration->throw(source => $file, problems => [{ path => '', message => $message }]);
    };
    open my $in, '<:raw', $file
        or $wrong->(
            $!{ENOENT} ? 'there is no such file; check the argument of initialize or MONITORING_CONFIG' : "can't be read: $!");
    my $text = do { local $/ = undef; <$in> // '' };
    close $in;
    my $content;
    {
        local ($@, $SIG{__DIE__});
        if (!eval { $content = _parsed($text); 1 }) {
            my $told = join ' ', split ' ', "$@" =~ s/ at \S+ line \d+[.]?\n?\z//r;
            $wrong->("not valid YAML or JSON: $told");
        }
    }
    return {} if !defined $content;
    $wrong->('expected a mapping at the top, got ' . Monitoring::SDK::JSON::kind_of($content)) if ref $content ne 'HASH';
    return $content;
}

# YAML in which `${VAR}` needs no quotes, though its braces would mean something else inside `{...}`.
sub _parsed ($text) {
    if ($text =~ /\A\s*\{/) {
        local $@ = undef;
        my $document = eval { Monitoring::SDK::JSON::decode($text) };
        return $document if ref $document;
    }
    my @variables;
    $text =~ s/($VARIABLE)/push @variables, _characters("$1"); "\xee\x80\x80$#variables\xee\x80\x81"/ge;
    return _shown(_yaml($text), \@variables);
}

sub _yaml ($text) {
    require YAML::XS;
    no warnings 'once';    ## no critic (ProhibitNoWarnings)
    local ($YAML::XS::Boolean, $YAML::XS::LoadBlessed) = ('JSON::PP', 0);
    require JSON::PP;
    return YAML::XS::Load($text);
}

# The document with its variables back, and with plain numbers as numbers.
sub _shown ($value, $variables) {
    if (ref $value eq 'HASH')  { return { map { ($_ => _shown($value->{$_}, $variables)) } keys %{$value} } }
    if (ref $value eq 'ARRAY') { return [map { _shown($_, $variables) } @{$value}] }
    return $value if !defined $value || ref $value;
    return 0 + $value if B::svref_2object(\$value)->FLAGS & (B::SVf_IOK | B::SVf_NOK);
    return $value =~ s/\x{e000}([0-9]+)\x{e001}/$variables->[$1]/gr;
}

# Make a relative spool folder relative to the file that names it, not to wherever the program was started.
sub _anchor ($document, $base) {
    my $sidecar = ref $document->{sdk} eq 'HASH' ? $document->{sdk}{sidecar} : undef;
    return if ref $sidecar ne 'HASH' || !length($sidecar->{spool_dir} // '') || ref $sidecar->{spool_dir};
    $sidecar->{spool_dir} = File::Spec->rel2abs(_at_home($sidecar->{spool_dir}), $base);
    return;
}

# A copy with `${VAR}` and `${VAR:-default}` replaced in every string.
sub _interpolated ($value, $environment, $path, $problems) {
    if (ref $value eq 'HASH') {
        my $enabled = $value->{enabled};    # nobody needs what a backend holds that is switched off
        $problems = [] if defined $enabled && Monitoring::SDK::JSON::is_boolean($enabled) && !Monitoring::SDK::JSON::truth($enabled);
        return {
            map { ($_ => _interpolated($value->{$_}, $environment, length $path ? "$path.$_" : $_, $problems)) } sort keys %{$value} };
    }
    if (ref $value eq 'ARRAY') {
        return [map { _interpolated($value->[$_], $environment, "${path}[$_]", $problems) } 0 .. $#{$value}];
    }
    return $value if ref $value || !defined $value || Monitoring::SDK::JSON::kind_of($value) ne 'string';
    my $replace = sub ($name, $default) {
        return _characters($environment->{$name}) if exists $environment->{$name};
        return $default if defined $default;
        my $message = "environment variable $name is not set and has no default (write \${$name:-default})";
        push @{$problems}, { path => $path, message => $message };
        return '';
    };
    my $text = _characters($value);
    return $text =~ s/$VARIABLE/$replace->($1, $2)/ger;
}

# An environment variable's text as YAML reads it: a number, a boolean, a list.
sub _typed ($text) {
    return 0 + $text if $text =~ /\A[-+]?(?:[0-9]+(?:[.][0-9]*)?|[.][0-9]+)(?:[eE][-+]?[0-9]+)?\z/;
    return !!1       if $text =~ /\A(?:true|yes|on)\z/i;
    return !!0       if $text =~ /\A(?:false|no|off)\z/i;
    return           if $text =~ /\A(?:null|~|)\z/i;
    return $text     if $text !~ /\A\s*[\[{]/;
    local ($@, $SIG{__DIE__});
    my $value = eval { _shown(_yaml(_bytes($text)), []) };
    return $value // $text;
}

sub _set ($tree, $value, @path) {
    my $last = pop @path;
    for my $part (@path) {
        $tree->{$part} = {} if ref $tree->{$part} ne 'HASH';
        $tree = $tree->{$part};
    }
    _merge($tree, { $last => $value });
    return;
}

# Put one document over another, level by level; a list replaces a list.
sub _merge ($tree, $other) {
    for my $key (keys %{$other}) {
        if (ref $tree->{$key} eq 'HASH' && ref $other->{$key} eq 'HASH') { _merge($tree->{$key}, $other->{$key}) }
        else                                                             { $tree->{$key} = $other->{$key} }
    }
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Config - reads and checks the configuration

=head1 SYNOPSIS

    my $settings = Monitoring::SDK::Config::load('monitoring-config.yaml');
    print $settings->{sidecar}{url};

=head1 DESCRIPTION

Later wins: defaults; the file (the argument, else what C<MONITORING_CONFIG> names, else F<./monitoring-config.yaml> if it is
there), YAML or JSON; the environment (C<MONITORING_SDK__SIDECAR__URL> sets C<sdk.sidecar.url>); a hash as argument.
C<${VAR}> and C<${VAR:-default}> are replaced in every string. All mistakes are reported at once.

Under C<-T> the configuration is trusted: whoever may write it decides where the SDK writes to anyway.

=head1 FUNCTIONS

=head2 load($config, \%environment)

The settings as a hash. C<$config> is the name of a file, a hash with the key C<sdk>, or C<undef>. Dies with a
C<Monitoring::SDK::Error::Configuration> that holds every mistake.

=cut
