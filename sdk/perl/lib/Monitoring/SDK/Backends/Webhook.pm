package Monitoring::SDK::Backends::Webhook;

# Posts events to any HTTP endpoint, signed; what TrackMate's sink of that name does without templates.

use v5.36;

use Compress::Zlib ();
use Digest::SHA    qw(hmac_sha256_hex sha256_hex);
use Socket         qw(AF_INET AF_INET6 unpack_sockaddr_in unpack_sockaddr_in6);

use Monitoring::SDK::Backends::Sidecar ();
use Monitoring::SDK::JSON              ();
use Monitoring::SDK::Retry             ();
use Monitoring::SDK::Transport         ();

our $VERSION = '0.1.0';

use constant {
    MAX_EVENTS => 100,
    MAX_BYTES  => 1024 * 1024 - 4096,
};

my %CONTENT_TYPE = (ndjson => 'application/x-ndjson', array => 'application/json', event => 'application/json');
my %IS_KNOWN     = map { ($_ => 1) } qw(
    url method body headers secret max_events parallel success compression allow_private connect_timeout read_timeout tls
);
my %IS_RESERVED = map { ($_ => 1) } qw(
    host content-length content-encoding transfer-encoding connection idempotency-key x-trackmate-signature x-trackmate-timestamp
);
# Statuses 4xx that are about the endpoint, the credential or the moment; all others are about what was sent.
my %IS_TRY_AGAIN = map { ($_ => 1) } 401 .. 411, 415, 421, 423 .. 426, 429, 451;
my %IS_SOON      = map { ($_ => 1) } 408, 409, 423, 424, 425, 429;

sub problems ($class, $config, $base) {
    my @found = map { ["config.$_", 'unknown key; known here: ' . join ', ', sort keys %IS_KNOWN] }
        grep { !$IS_KNOWN{$_} } sort keys %{$config};
    push @found, ['config.body', 'templates are for the sidecar; the SDK knows ndjson, array and event']
        if ($config->{body} // '') eq 'template';
    my $headers = ref $config->{headers} eq 'HASH' ? $config->{headers} : {};
    for my $name (sort keys %{$headers}) {
        my $value = $headers->{$name};
        push @found, ["config.headers.$name", 'expected one line of ASCII without placeholders']
            if ref $value || !defined $value || $value =~ /[^\x20-\x7e]|\$\{/;
        push @found, ["config.headers.$name", "it is no header's name, or one that is set here"]
            if $IS_RESERVED{ lc $name } || $name !~ /\A[A-Za-z0-9_-]+\z/;
    }
    my $url = $config->{url};
    push @found, ['config.url', 'expected an http:// or https:// address without a name, a password or a # in it']
        if defined $url && !ref $url && $url =~ m{\Ahttps?://(?:[^/]*@|[^\#]*\#)};
    return @found;
}

sub new ($class, $settings, $sidecar, $emitter_id) {
    my $config = $settings->{config};
    my ($url) = $config->{url} =~ /\A(.*)\z/s;
    my $tls = Monitoring::SDK::Transport::tls_of($config->{tls}, $settings->{base});
    my $may_be_private = $config->{allow_private} && Monitoring::SDK::JSON::truth($config->{allow_private});
    my $transport = Monitoring::SDK::Transport->new($url, tls => $tls, $may_be_private ? () : (permit => \&_public_only));
    my @secrets = grep { length >= 6 } $transport->path, $config->{secret} // '',
        map { ($_, (split ' ')[-1] // '') } values %{ $config->{headers} // {} };
    return bless { config => $config, transport => $transport, body => $config->{body} // 'ndjson', secrets => \@secrets }, $class;
}

sub bounds ($self) {
    return ($self->{body} eq 'event' ? 1 : $self->{config}{max_events} // MAX_EVENTS, MAX_BYTES);
}
sub keeps_rejected ($self) { return 0 }
sub tick           ($self) { return }
sub close          ($self) { return $self->{transport}->close }     ## no critic (ProhibitBuiltinHomonyms)
sub forget         ($self) { return $self->{transport}->forget }

sub send ($self, $batch, $timeout) {    ## no critic (ProhibitBuiltinHomonyms)
    my $config = $self->{config};
    my @lines  = @{ $batch->{lines} };
    my $body
        = $self->{body} eq 'event' ? $lines[0]
        : $self->{body} eq 'array' ? '[' . join(',', @lines) . ']'
        :                            join "\n", @lines, '';
    utf8::downgrade($body);
    my %headers = (
        'Content-Type'    => $CONTENT_TYPE{ $self->{body} },
        'Idempotency-Key' => $self->_idempotency($batch, join "\n", @lines, ''),
        %{ $config->{headers} // {} },
    );
    if (($config->{compression} // 'none') eq 'gzip') {
        $body = Compress::Zlib::memGzip($body);
        $headers{'Content-Encoding'} = 'gzip';
    }
    if (length($config->{secret} // '')) {
        my $moment = time;
        my $key = $config->{secret};
        utf8::encode($key) if utf8::is_utf8($key);
        $headers{'X-TrackMate-Timestamp'} = $moment;
        $headers{'X-TrackMate-Signature'} = 'v1=' . hmac_sha256_hex("$moment.$body", $key);
    }
    my %request = (method => $config->{method} // 'POST', headers => \%headers, body => $body);
    my $answer  = $self->{transport}->request(\%request, $timeout);
    if (defined $answer->{error}) {
        my $detail = $self->{transport}->origin . ": $answer->{error}";
        return { outcome => 'retry', detail => $detail, timed_out => $answer->{timed_out} };
    }
    return $self->_judged($answer, scalar @lines);
}

sub _idempotency ($self, $batch, $text) {
    return $1 if $self->{body} eq 'event' && $text =~ /"event_id":"([^"]*)"/;
    my $last = $batch->{number} + @{ $batch->{lines} } - 1;
    utf8::downgrade($text);
    return substr sha256_hex("$batch->{log} $batch->{number} $last $text"), 0, 32;
}

sub _judged ($self, $answer, $events) {
    my $status  = $answer->{status};
    my $success = $self->{config}{success} // [];
    return { outcome => 'accepted' } if @{$success} ? grep { $_ == $status } @{$success} : $status >= 200 && $status < 300;
    my $said = Monitoring::SDK::Backends::Sidecar::said($answer->{body});
    $said =~ s/\Q$_\E/***/g for @{ $self->{secrets} };
    my $detail = $self->{transport}->origin . " answered $status: $said";
    my $pause  = Monitoring::SDK::Retry::retry_after($answer->{headers}{'retry-after'});
    my $outcome
        = $status >= 500                 ? 'retry'
        : $status < 400                  ? 'keep'
        : $IS_SOON{$status}              ? 'retry'
        : $IS_TRY_AGAIN{$status}         ? 'keep'
        : $events > 1                    ? 'too_large'    # halved until the culprits stand alone
        :                                  'refused';
    return { outcome => $outcome, detail => $detail, retry_after => $pause };
}

# The addresses of the internet: not of this host, a private network, a link, a group, nor reserved.
sub _public_only (@found) {
    my @public = grep { _is_public($_) } @found;
    die "its name leads only to addresses that are not public; set allow_private to allow them\n" if @found && !@public;
    return @public;
}

sub _is_public ($address) {
    if ($address->{family} == AF_INET) {
        my (undef, $packed) = unpack_sockaddr_in($address->{addr});
        return _is_public_ipv4(unpack 'N', $packed);
    }
    return 0 if $address->{family} != AF_INET6;
    my (undef, $packed) = unpack_sockaddr_in6($address->{addr});
    my @words = unpack 'n8', $packed;
    return _is_public_ipv4($words[6] << 16 | $words[7]) if !grep({$_} @words[0 .. 4]) && $words[5] == 0xffff;
    return _is_public_ipv4($words[6] << 16 | $words[7]) if $words[0] == 0x64 && $words[1] == 0xff9b && !grep {$_} @words[2 .. 5];
    return _is_public_ipv4($words[1] << 16 | $words[2]) if $words[0] == 0x2002;
    return 0 if ($words[0] & 0xe000) != 0x2000;                                   # only 2000::/3 is of the internet
    return 0 if $words[0] == 0x2001 && ($words[1] < 0x200 || $words[1] == 0xdb8);
    return 1;
}

sub _is_public_ipv4 ($number) {
    state $reserved = [
        map { my ($first, $bits) = m{(.*)/(.*)}; [unpack('N', pack 'C4', split /[.]/, $first) >> (32 - $bits), 32 - $bits] } qw(
            0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24
            192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
        )
    ];
    return !grep { $number >> $_->[1] == $_->[0] } @{$reserved};
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends::Webhook - delivers to any HTTP endpoint

=head1 DESCRIPTION

A request holds events as JSON Lines, as a JSON array, or one event. Every request has an C<Idempotency-Key> that is the same
when the same events are sent again. With a C<secret> it is signed: C<X-TrackMate-Signature> is C<v1=> and the HMAC-SHA256, in hex, of
the header C<X-TrackMate-Timestamp>, a dot and the body as it was sent. Addresses that are not public are refused unless
C<allow_private> is true.

=head1 METHODS

=head2 new(\%settings, \%sidecar, $emitter_id), send(\%batch, $timeout), bounds, keeps_rejected, tick, close, forget

As of every backend, see L<Monitoring::SDK::Backends>.

=head2 problems(\%config, $base)

What a schema can't tell to be wrong.

=cut
