package Monitoring::SDK::Backends::Elk;

# Writes events to Elasticsearch: each is a document whose id is its `event_id`, made with `create`.

use v5.36;

use MIME::Base64 qw(encode_base64);

use Monitoring::SDK::Backends::Sidecar ();
use Monitoring::SDK::JSON              ();
use Monitoring::SDK::Partition         ();
use Monitoring::SDK::Retry             ();
use Monitoring::SDK::Transport         ();

our $VERSION = '0.1.0';

use constant {
    MAX_EVENTS       => 5000,
    MAX_BYTES        => 1024 * 1024 - 4096,
    TEMPLATE_VERSION => 1,
};

my %IS_KNOWN = map { ($_ => 1) } qw(
    url index username password api_key manage_template request_bytes connect_timeout read_timeout tls
);
my %DIRECTIVE = ('%Y' => 'yyyy', '%m' => 'mm', '%d' => 'dd', '%H' => 'hh');
# Answers with status 400 that are about the index or the cluster, not about the document: they may be mended.
my %PLACE_IS_WRONG = map { ($_ => 1) } qw(index_closed_exception invalid_index_name_exception validation_exception);

sub problems ($class, $config, $base) {
    my @found = map { ["config.$_", 'unknown key; known here: ' . join ', ', sort keys %IS_KNOWN] }
        grep { !$IS_KNOWN{$_} } sort keys %{$config};
    my @urls = ref $config->{url} eq 'ARRAY' ? @{ $config->{url} } : $config->{url} // ();
    push @found, ['config.url', 'expected an http:// or https:// URL, or a list of them']
        if exists $config->{url} && (!@urls || grep { ref || !defined || !m{\Ahttps?://[^/\s]+} } @urls);
    my $index = $config->{index} // 'monitoring';
    my @unknown = grep { !$DIRECTIVE{$_} } $index =~ /(%.?)/g;
    push @found, ['config.index', "@unknown: known are " . join ', ', sort keys %DIRECTIVE] if @unknown;
    push @found, ['config.index', 'expected a name in lower case without \\ / * ? " < > | , # : or a space, not beginning with - _ +']
        if ref $index || $index =~ s/%.//gr =~ m{[A-Z\\/*?"<>|\s,#:]|\A[-_+]|\A[.]{1,2}\z} || !length $index;
    push @found, ['config.api_key', 'set either `api_key` or `username` and `password`, not both']
        if length($config->{api_key} // '') && length($config->{username} // '');
    return @found;
}

sub new ($class, $settings, $sidecar, $emitter_id) {
    my $config = $settings->{config};
    my @urls   = ref $config->{url} ? @{ $config->{url} } : $config->{url};
    my $tls = Monitoring::SDK::Transport::tls_of($config->{tls}, $settings->{base});
    my $manages = $config->{manage_template} // 1;
    my $self = bless {
        transports => [map { Monitoring::SDK::Transport->new(m{\A(.*?)/*\z}s, tls => $tls) } @urls],
        index      => $config->{index} // 'monitoring',
        headers    => { 'Content-Type' => 'application/json' },
        manages    => Monitoring::SDK::JSON::kind_of($manages) eq 'boolean' ? Monitoring::SDK::JSON::truth($manages) : 1,
        bytes      => $config->{request_bytes} // MAX_BYTES,
    }, $class;
    if (length($config->{api_key} // '')) { $self->{headers}{Authorization} = "ApiKey $config->{api_key}" }
    elsif (length($config->{username} // '')) {
        my $pair = "$config->{username}:" . ($config->{password} // '');
        utf8::encode($pair) if utf8::is_utf8($pair);
        $self->{headers}{Authorization} = 'Basic ' . encode_base64($pair, '');
    }
    return $self;
}

sub bounds         ($self) { return (MAX_EVENTS, $self->{bytes} < MAX_BYTES ? $self->{bytes} : MAX_BYTES) }
sub keeps_rejected ($self) { return 0 }
sub tick           ($self) { return }

sub close ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    $_->close for @{ $self->{transports} };
    return;
}

sub forget ($self) {
    $_->forget for @{ $self->{transports} };
    return;
}

sub send ($self, $batch, $timeout) {    ## no critic (ProhibitBuiltinHomonyms)
    my $deadline = Monitoring::SDK::Retry::now() + $timeout;
    if ($self->{manages} && !$self->{is_prepared}) {
        my $failure = $self->_prepare($deadline);
        return $failure if $failure;
        $self->{is_prepared} = 1;
    }
    my $body   = join '', map { $self->_document($_) } @{ $batch->{lines} };
    my $path   = $self->{index} =~ /%/ ? '' : "/$self->{index}";
    my $answer = $self->_ask('POST', "$path/_bulk?timeout=10s&filter_path=errors,items.*.status,items.*.error", $body, $deadline);
    my $failure = $self->_failure($answer);
    if ($failure) {
        my $is_large = ($answer->{status} // 0) == 413 || ($answer->{status} // 0) == 400 && ref $answer->{told};
        return $is_large ? { %{$failure}, outcome => 'too_large' } : $failure;
    }
    my $items = ref $answer->{told} eq 'HASH' ? $answer->{told}{items} : undef;
    if (ref $items ne 'ARRAY' || @{$items} != @{ $batch->{lines} }) {
        return { outcome => 'keep', detail => "it does not answer for each document: is it Elasticsearch?" };
    }
    my (@rejected, @retry, $why);
    for my $place (0 .. $#{$items}) {
        my ($fate, $reason) = _fate($items->[$place]{create} // {});
        if    ($fate eq 'refused') { push @rejected, { index => $place, path => '', error => $reason } }
        elsif ($fate eq 'retry')   { push @retry, $place; $why //= $reason }
    }
    return { outcome => 'retry', detail => "it takes no event: $why" } if @retry == @{$items};
    return { outcome => 'accepted', rejected => \@rejected, retry => \@retry, detail => $why };
}

# The two lines that the bulk API takes.
sub _document ($self, $line) {
    my ($id) = $line =~ /"event_id":"([^"]*)"/;
    my $index = $self->{index} =~ /%/ ? ',"_index":' . Monitoring::SDK::JSON::text($self->_index_of($line)) : '';
    # Elasticsearch refuses a small t or z and more than nine digits, which the contract allows.
    if ($line !~ /"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.]\d{1,9})?(?:Z|[+-]\d\d:\d\d)"/a) {
        my ($seconds, $fraction, $text) = Monitoring::SDK::Partition::moment_of($line);
        my @utc = gmtime $seconds;
        my $readable = sprintf '%04d-%02d-%02dT%02d:%02d:%02d%sZ', $utc[5] + 1900, $utc[4] + 1, @utc[3, 2, 1, 0], substr $fraction, 0, 7;
        $line =~ s/"timestamp":"\Q$text\E"/"timestamp":"$readable"/;
    }
    return qq({"create":{"_id":"$id"$index}}\n$line\n);
}

# The index of an event: a family of indices goes by the event's date in UTC.
sub _index_of ($self, $line) {
    my ($seconds) = Monitoring::SDK::Partition::moment_of($line);
    my @utc  = gmtime $seconds;
    my %part = (
        '%Y' => sprintf('%04d', $utc[5] + 1900), '%m' => sprintf('%02d', $utc[4] + 1), '%d' => sprintf('%02d', $utc[3]),
        '%H' => sprintf('%02d', $utc[2]),
    );
    return $self->{index} =~ s/(%.)/$part{$1}/gr;
}

# What became of one document, and why.
sub _fate ($result) {
    my $status = $result->{status} // 0;
    my $error  = ref $result->{error} eq 'HASH' ? $result->{error} : {};
    my $type   = $error->{type} // '';
    return ('delivered', '') if $status == 200 || $status == 201 || $status == 409 && $type eq 'version_conflict_engine_exception';
    my $reason = _reason($error) || "status $status";
    my $is_its_fault = $status == 400 && !$PLACE_IS_WRONG{$type} && $type ne 'cluster_block_exception' && $reason !~ /write index/;
    return ($is_its_fault ? 'refused' : 'retry', "$type: $reason");
}

sub _reason ($error) {
    my @reasons;
    while (ref $error eq 'HASH' && @reasons < 4) {
        push @reasons, join ' ', split ' ', $error->{reason} // '';
        $error = $error->{caused_by};
    }
    return substr join(': ', grep {length} @reasons), 0, 500;
}

# Install the index template, unless this version of it or a later one is there.
sub _prepare ($self, $deadline) {
    my $name  = 'trackmate-' . $self->{index} =~ s/(%.)/$DIRECTIVE{$1}/gr;
    my $found = $self->_ask('GET', "/_index_template/$name", '', $deadline);
    if (($found->{status} // 0) != 404) {
        my $failure = $self->_failure($found);
        return $failure if $failure;
        my $templates = ref $found->{told} eq 'HASH' ? $found->{told}{index_templates} : undef;
        my $version = ref $templates eq 'ARRAY' && @{$templates} ? $templates->[0]{index_template}{version} // 0 : 0;
        return if $version >= TEMPLATE_VERSION;
    }
    my $body = Monitoring::SDK::JSON::value('', $self->_template, 1);
    return $self->_failure($self->_ask('PUT', "/_index_template/$name", $body, $deadline));
}

sub _template ($self) {
    my %keyword = (type => 'keyword');
    my %short   = (type => 'keyword', ignore_above => 1024);
    my %text    = (type => 'text',    norms        => !!0);
    my %number  = (type => 'double');
    my %names   = (type => 'object', dynamic => !!1, subobjects => !!0);
    my %mapping = (
        dynamic           => !!0,
        dynamic_templates => [
            { entities => { path_match => 'entities.*', mapping => \%short } },
            { metrics  => { path_match => 'metrics.*',  mapping => \%number } },
        ],
        properties => {
            (map { ($_ => \%keyword) } qw(event_id kind name site_id run_id parent_run_id status severity trace_id span_id)),
            timestamp   => { type => 'date_nanos', format => 'strict_date_optional_time_nanos' },
            app         => { properties => { map { ($_ => \%keyword) } qw(name version instance_id) } },
            emitter     => { properties => { id => \%keyword, seq => { type => 'long' } } },
            entities    => \%names,
            metrics     => \%names,
            message     => { %text, fields => { keyword => { type => 'keyword', ignore_above => 256 } } },
            progress    => \%number,
            duration_ms => \%number,
            state       => { properties => { from => \%keyword, to => \%keyword } },
            error       => { properties => { type => \%keyword, message => \%text, stack => \%text } },
            attributes  => { type => 'flattened', depth_limit => 64, ignore_above => 1024 },
        },
    );
    return {
        index_patterns => [$self->{index} =~ s/%./*/gr],
        priority       => 150,
        version        => TEMPLATE_VERSION,
        template       => { settings => { 'index.mapping.total_fields.ignore_dynamic_beyond_limit' => !!1 }, mappings => \%mapping },
        _meta          => { description => "TrackMate's events", managed_by => 'trackmate' },
    };
}

# The answer of the first node that gives one; `told` is its body decoded.
sub _ask ($self, $method, $path, $body, $deadline) {
    my $answer = { error => 'no time left', timed_out => 1 };
    my %headers = %{ $self->{headers} };
    $headers{'Content-Type'} = 'application/x-ndjson' if $path =~ /_bulk/;
    for my $transport (@{ $self->{transports} }) {
        my $left = $deadline - Monitoring::SDK::Retry::now();
        last if $left <= 0;
        my $base = $transport->path =~ s{/\z}{}r;
        $answer = $transport->request({ method => $method, path => "$base$path", headers => \%headers, body => $body }, $left);
        last if !defined $answer->{error};
    }
    local ($@, $SIG{__DIE__});
    $answer->{told} = eval { Monitoring::SDK::JSON::decode($answer->{body}) } if !defined $answer->{error};
    return $answer;
}

# What an answer that is no success means; undef for success.
sub _failure ($self, $answer) {
    my $shown = 'Elasticsearch at ' . join ', ', map { $_->origin } @{ $self->{transports} };
    return { outcome => 'retry', detail => "$shown: $answer->{error}", timed_out => $answer->{timed_out} } if defined $answer->{error};
    my $status = $answer->{status};
    return if $status >= 200 && $status < 300;
    my $error = ref $answer->{told} eq 'HASH' && ref $answer->{told}{error} eq 'HASH' ? $answer->{told}{error} : {};
    my $told
        = $status == 401 ? 'the credential is missing, wrong or expired: set `username` and `password`, or `api_key`'
        : _reason($error) || Monitoring::SDK::Backends::Sidecar::said($answer->{body});
    return {
        outcome     => $status >= 500 || $status == 429 || $status == 408 ? 'retry' : 'keep',
        detail      => "$shown answered $status: $told",
        retry_after => Monitoring::SDK::Retry::retry_after($answer->{headers}{'retry-after'}),
    };
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends::Elk - delivers to Elasticsearch

=head1 DESCRIPTION

Every event is a document whose id is its C<event_id>, made with C<create>, so that a batch delivered twice leaves one copy. The
index (C<index>, a name or a pattern such as C<monitoring-%Y.%m>) and its template are those of TrackMate's sink.

=head1 METHODS

=head2 new(\%settings, \%sidecar, $emitter_id), send(\%batch, $timeout), bounds, keeps_rejected, tick, close, forget

As of every backend, see L<Monitoring::SDK::Backends>.

=head2 problems(\%config, $base)

What a schema can't tell to be wrong.

=cut
