package Monitoring::SDK::Backends::S3;

# Writes JSON Lines objects to Amazon S3 and compatible stores; a batch delivered twice overwrites itself.

use v5.36;

use Compress::Zlib ();
use Digest::MD5    qw(md5_base64);
use Digest::SHA    qw(hmac_sha256 hmac_sha256_hex sha256_hex);

use Monitoring::SDK::Backends::Sidecar ();
use Monitoring::SDK::JSON              ();
use Monitoring::SDK::Partition         ();
use Monitoring::SDK::Retry             ();
use Monitoring::SDK::Transport         ();

our $VERSION = '0.1.0';

use constant {
    MAX_EVENTS => 5000,
    MAX_BYTES  => 1024 * 1024 - 4096,
};

my %SUFFIX   = (gzip => ['.jsonl.gz', 'application/gzip'], none => ['.jsonl', 'application/x-ndjson']);
my %IS_KNOWN = map { ($_ => 1) } qw(
    bucket region prefix endpoint_url credentials format compression path_style storage_class linger_seconds tls proxy connect_timeout
    read_timeout
);
my %ADVICE = (
    NoSuchBucket          => 'make the bucket, or set `bucket` (and `region` or `endpoint_url`) to one that exists',
    InvalidAccessKeyId    => 'set `credentials` to a key of that store',
    SignatureDoesNotMatch => 'the secret access key does not belong to the access key: set `credentials`',
    AccessDenied          => 'allow the key s3:PutObject below the prefix',
    PermanentRedirect     => "set `region` to the bucket's",
    RequestTimeTooSkewed  => "this machine's clock is wrong: set it right",
);

sub problems ($class, $config, $base) {
    my @found = map { ["config.$_", 'unknown key; known here: ' . join ', ', sort keys %IS_KNOWN] }
        grep { !$IS_KNOWN{$_} } sort keys %{$config};
    my $compression = $config->{compression} // 'gzip';
    push @found, ['config.compression', 'the Perl SDK knows gzip and none; let the sidecar write zstd'] if !$SUFFIX{$compression};
    push @found, ['config.format', 'the Perl SDK writes jsonl; let the sidecar write Parquet'] if ($config->{format} // 'jsonl') ne 'jsonl';
    push @found, ['config.endpoint_url', 'expected an http:// or https:// URL, or null']
        if defined $config->{endpoint_url} && !ref $config->{endpoint_url} && $config->{endpoint_url} !~ m{\Ahttps?://[^/\s]+};
    my ($key, $secret) = _credentials($config);
    push @found, ['config.credentials', 'expected access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY']
        if !length $key || !length $secret;
    return @found;
}

sub _credentials ($config) {
    my $given = ref $config->{credentials} eq 'HASH' ? $config->{credentials} : {};
    return @{$given}{qw(access_key_id secret_access_key session_token)} if length($given->{access_key_id} // '');
    return map { $ENV{$_} // '' } qw(AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN);
}

sub new ($class, $settings, $sidecar, $emitter_id) {
    my $config   = $settings->{config};
    my $region   = $config->{region}       // $ENV{AWS_REGION} // $ENV{AWS_DEFAULT_REGION} // 'us-east-1';
    my $endpoint = $config->{endpoint_url} // "https://s3.$region.amazonaws.com";
    my $bucket   = $config->{bucket};
    my $in_path
        = defined $config->{path_style} ? Monitoring::SDK::JSON::truth($config->{path_style})
        : defined $config->{endpoint_url} || $bucket =~ /[.]/;
    $endpoint =~ s{://}{://$bucket.} if !$in_path;
    ($endpoint) = $endpoint =~ m{\A(.*?)/*\z}s;
    my $prefix = $config->{prefix} // 'events/';
    $prefix .= '/' if length $prefix && $prefix !~ m{/\z};
    my $tls = Monitoring::SDK::Transport::tls_of($config->{tls}, $settings->{base});
    my ($key, $secret, $token) = _credentials($config);
    my $self = bless {
        transport   => Monitoring::SDK::Transport->new($endpoint, tls => $tls),
        base        => $in_path ? "/$bucket/" : '/',
        prefix      => $prefix,
        bucket      => $bucket,
        name        => $settings->{name},
        compression => $config->{compression} // 'gzip',
        storage     => $config->{storage_class},
        region      => $region,
        key         => $key,
        secret      => $secret,
        token       => $token,
    }, $class;
    my $path = $self->{transport}->path =~ s{/\z}{}r;
    $self->{base} = "$path$self->{base}";
    return $self;
}

sub bounds         ($self) { return (MAX_EVENTS, MAX_BYTES) }
sub keeps_rejected ($self) { return 0 }
sub tick           ($self) { return }
sub close          ($self) { return $self->{transport}->close }     ## no critic (ProhibitBuiltinHomonyms)
sub forget         ($self) { return $self->{transport}->forget }

# One object for each hour that the events are of.
sub send ($self, $batch, $timeout) {    ## no critic (ProhibitBuiltinHomonyms)
    my $deadline = Monitoring::SDK::Retry::now() + $timeout;
    my %hours;
    for my $place (0 .. $#{ $batch->{lines} }) {
        push @{ $hours{ Monitoring::SDK::Partition::partition_of($batch->{lines}[$place]) } }, $place;
    }
    for my $hour (sort keys %hours) {
        my $left = $deadline - Monitoring::SDK::Retry::now();
        my $failure = $left > 0 ? $self->_put($batch, $hour, $hours{$hour}, $left) : { outcome => 'retry', detail => 'no time left' };
        return $failure if $failure;    # what is written already overwrites itself next time
    }
    return { outcome => 'accepted' };
}

sub _put ($self, $batch, $hour, $places, $timeout) {
    my ($suffix, $type) = @{ $SUFFIX{ $self->{compression} } };
    my ($log, $name) = map {s/[^A-Za-z0-9._-]/_/gr} $batch->{log}, $self->{name};
    my ($first, $last) = map { $batch->{number} + $_ } @{$places}[0, -1];
    my $object = sprintf '%s%s/%s.%s-%020d-%020d%s', $self->{prefix}, $hour, $log, $name, $first, $last, $suffix;
    my $body = join "\n", @{ $batch->{lines} }[@{$places}], '';
    utf8::downgrade($body);
    $body = Compress::Zlib::memGzip($body) if $self->{compression} eq 'gzip';
    my %headers = (
        'content-type'              => $type,
        'content-md5'               => md5_base64($body) . '==',
        'x-amz-meta-trackmate-events'  => scalar @{$places},
        'x-amz-meta-trackmate-backend' => $self->{name},
        defined $self->{storage} ? ('x-amz-storage-class' => $self->{storage}) : (),
    );
    my $path   = $self->{base} . $object =~ s{([^A-Za-z0-9._~/-])}{sprintf '%%%02X', ord $1}ger;
    my %signed = $self->_signed('PUT', $path, \%headers, $body, time);
    my $answer = $self->{transport}->request({ method => 'PUT', path => $path, headers => \%signed, body => $body }, $timeout);
    return $self->_judged($answer);
}

# The headers with a signature of version 4; names in lower case.
sub _signed ($self, $method, $path, $headers, $body, $now) {
    my @utc  = gmtime $now;
    my $day  = sprintf '%04d%02d%02d', $utc[5] + 1900, $utc[4] + 1, $utc[3];
    my $date = sprintf '%sT%02d%02d%02dZ', $day, @utc[2, 1, 0];
    my $hash = sha256_hex($body);
    my %all  = (%{$headers}, 'host' => $self->{transport}->authority, 'x-amz-date' => $date, 'x-amz-content-sha256' => $hash);
    $all{'x-amz-security-token'} = $self->{token} if length($self->{token} // '');
    my $names   = join ';', sort keys %all;
    my $request = join "\n", $method, $path, '', (map {"$_:$all{$_}"} sort keys %all), '', $names, $hash;
    my $scope   = "$day/$self->{region}/s3/aws4_request";
    my $text    = join "\n", 'AWS4-HMAC-SHA256', $date, $scope, sha256_hex($request);
    my $key     = "AWS4$self->{secret}";
    $key = hmac_sha256($_, $key) for $day, $self->{region}, 's3', 'aws4_request';
    my $signature = hmac_sha256_hex($text, $key);
    delete $all{host};
    return (%all, Authorization => "AWS4-HMAC-SHA256 Credential=$self->{key}/$scope, SignedHeaders=$names, Signature=$signature");
}

# What a failure means; undef for success.
sub _judged ($self, $answer) {
    my $where = "bucket '$self->{bucket}' at " . $self->{transport}->origin;
    return { outcome => 'retry', detail => "$where: $answer->{error}", timed_out => $answer->{timed_out} } if defined $answer->{error};
    my $status = $answer->{status};
    if ($status >= 200 && $status < 300) {
        return if length($answer->{headers}{etag} // '');
        return { outcome => 'keep', detail => "$where: an object was sent, but the answer holds no ETag: is it an S3 server?" };
    }
    my ($code) = $answer->{body} =~ m{<Code>([A-Za-z]+)</Code>};
    my $advice = $ADVICE{ $code // '' } // ($code // Monitoring::SDK::Backends::Sidecar::said($answer->{body}));
    my $is_soon = $status >= 500 || $status == 408 || $status == 429 || ($code // '') eq 'SlowDown';
    return {
        outcome     => $is_soon ? 'retry' : 'keep',
        detail      => "$where answered $status: $advice",
        retry_after => Monitoring::SDK::Retry::retry_after($answer->{headers}{'retry-after'}),
    };
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends::S3 - delivers to Amazon S3 and compatible stores

=head1 DESCRIPTION

Objects are named as those of TrackMate's sink,
C<< <prefix>date=2026-07-01/hour=09/<log>.<backend>-<first>-<last>.jsonl.gz >>. The name is made of what is inside, so that a batch
delivered twice overwrites itself. C<compression> is C<gzip> (the default) or C<none>. Requests are signed by SigV4 with
C<credentials>, or with C<AWS_ACCESS_KEY_ID> and C<AWS_SECRET_ACCESS_KEY> of the environment. The key needs C<s3:PutObject>.

=head1 METHODS

=head2 new(\%settings, \%sidecar, $emitter_id), send(\%batch, $timeout), bounds, keeps_rejected, tick, close, forget

As of every backend, see L<Monitoring::SDK::Backends>.

=head2 problems(\%config, $base)

What a schema can't tell to be wrong.

=cut
