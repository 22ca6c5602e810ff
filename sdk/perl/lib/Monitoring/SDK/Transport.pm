package Monitoring::SDK::Transport;

# HTTP requests over one kept connection, each within a deadline however slowly the answer drips.

use v5.36;

use Errno       qw(EAGAIN EINPROGRESS EINTR EWOULDBLOCK);
use File::Spec  ();
use IO::Handle  ();
use Fcntl       qw(F_GETFL F_SETFL O_NONBLOCK);
use Socket      qw(:addrinfo IPPROTO_TCP SOCK_STREAM SOL_SOCKET SO_ERROR TCP_NODELAY);

use Monitoring::SDK::JSON  ();
use Monitoring::SDK::Retry ();

our $VERSION = '0.1.0';

use constant {
    USER_AGENT     => 'monitoring-sdk-perl',
    LARGEST_HEAD   => 64 * 1024,
    LARGEST_ANSWER => 4 * 1024 * 1024,
    CHUNK          => 64 * 1024,
};

# What is wrong with a server's certificate, by OpenSSL's numbers (x509_vfy.h).
my %FAULT = (
    (map { ($_ => 'is not trusted (%s): if it is the right server, name its authority in SSL_CERT_FILE or tls.ca_file') } 2, 18 .. 21, 27),
    9  => 'is not valid yet (%s): set the clocks of both machines right',
    10 => "has expired (%s): renew it there, or set this machine's clock right",
);

# A transport to one URL. `options`: `tls` (ca_file, verify, cert_file, key_file) and `permit`, which is given the addresses of the
# host (packed, as of getaddrinfo) and answers with those that may be connected to.
sub new ($class, $url, %options) {
    my ($scheme, $host, $port, $path) = $url =~ m{\A(https?)://(?:[^/@]*@)?(\[[^\]]+\]|[^/:?]+)(?::([0-9]*))?([/?].*)?\z}s
        or die "no URL: $url\n";
    $port = $scheme eq 'https' ? 443 : 80 if !length($port // '');
    $path = '/' . ($path // '') if !defined $path || $path !~ m{\A/};
    my $default = $port == ($scheme eq 'https' ? 443 : 80);
    return bless {
        scheme    => $scheme,
        host      => $host =~ s/[\[\]]//gr,
        authority => $default ? $host : "$host:$port",
        port      => $port,
        path      => $path,
        pid       => $$,
        tls       => $options{tls} // {},
        permit    => $options{permit},
    }, $class;
}

sub host      ($self) { return $self->{host} }
sub authority ($self) { return $self->{authority} }
sub path      ($self) { return $self->{path} }
sub origin    ($self) { return "$self->{scheme}://$self->{authority}" }

sub is_loopback ($self) { return $self->{host} eq 'localhost' || $self->{host} eq '::1' || $self->{host} =~ /\A127[.]/ }

# The `tls` block of a backend as an option of `new`; its files are relative to the folder `base` (undef: the working folder).
sub tls_of ($block, $base) {
    my %tls = %{ $block // {} };
    for (grep { defined } @tls{qw(ca_file cert_file key_file)}) {
        $_ = (File::Spec->rel2abs($_, $base) =~ /\A(.*)\z/s)[0];    # the configuration is trusted
    }
    $tls{verify} = Monitoring::SDK::JSON::truth($tls{verify}) if exists $tls{verify};
    return \%tls;
}

# The answer to a request: a hash with `status`, `headers` (names in lower case) and `body`; or with `error`, and `timed_out`.
# Never dies. `request`: `method`, `path`, `headers`, `body`.
sub request ($self, $request, $timeout) {
    local ($@, $!, $SIG{__DIE__});
    local $SIG{PIPE} = 'IGNORE';
    my $deadline = Monitoring::SDK::Retry::now() + $timeout;
    for my $attempt (1, 2) {
        my $is_kept = $self->_connected;
        my $answer  = eval { $self->_exchange($request, $deadline) };
        if ($answer) {
            $self->close if $answer->{is_last};
            return $answer;
        }
        my $error = $@;
        $self->close;
        next if $is_kept && $attempt == 1 && ref $error eq 'SCALAR';    # the server has closed a connection that we kept
        $error = ${$error} if ref $error eq 'SCALAR';
        $error =~ s/\n\z//;
        return { error => $error, timed_out => $error eq 'it did not answer in time' };
    }
    return { error => 'the connection was closed' };
}

# Close the connection.
sub close ($self) {    ## no critic (ProhibitBuiltinHomonyms)
    my $socket = delete $self->{socket} or return;
    if ($self->{scheme} eq 'https' && $socket->can('stop_SSL')) { $socket->close(SSL_no_shutdown => 1) }
    else                                                        { CORE::close $socket }
    return;
}

# Let go of the connection in a forked child, without a word to the server.
sub forget ($self) { return $self->close }

sub _connected ($self) {
    if ($self->{pid} != $$) {
        $self->forget;
        $self->{pid} = $$;
    }
    return !!$self->{socket};
}

sub _exchange ($self, $request, $deadline) {
    my $socket = $self->{socket} //= $self->_connect($deadline);
    my $method = $request->{method} // 'POST';
    my $body   = $request->{body}   // '';
    my %headers = (Host => $self->{authority}, 'User-Agent' => USER_AGENT, 'Content-Length' => length $body, %{ $request->{headers} // {} });
    delete $headers{'Content-Length'} if $method eq 'GET' || $method eq 'HEAD';
    my $head = join "\r\n", "$method " . ($request->{path} // $self->{path}) . ' HTTP/1.1',
        (map { "$_: $headers{$_}" } sort keys %headers), '', '';
    utf8::downgrade($head);
    utf8::downgrade($body);
    $self->_send($head . $body, $deadline);

    my $answer;
    do { $answer = $self->_head($deadline) } while $answer->{status} >= 100 && $answer->{status} < 200;
    $self->_body($answer, $method, $deadline);
    return $answer;
}

sub _head ($self, $deadline) {
    my $buffer = \$self->{buffer};
    until (${$buffer} =~ /\r?\n\r?\n/) {
        die "the head of the answer is too long\n" if length ${$buffer} > LARGEST_HEAD;
        my $line = (split /\n/, ${$buffer}, 2)[0] // '';
        die "it does not speak HTTP\n" if length $line >= 5 && $line !~ m{\AHTTP/};
        if (!$self->_receive($deadline)) {
            die \'it closed the connection without an answer' if !length ${$buffer};    ## no critic (RequireCarping)
            die "it cut its answer\n";
        }
    }
    ${$buffer} =~ s/\A(.*?)\r?\n\r?\n//s;
    my ($first, @lines) = split /\r?\n/, $1;
    my ($version, $status) = $first =~ m{\AHTTP/(1[.][01])\s+([0-9]{3})} or die "it does not speak HTTP\n";
    my %headers;
    for (@lines) {
        my ($name, $value) = /\A([^:\s]+):\s*(.*?)\s*\z/ or next;
        $headers{ lc $name } //= $value;
    }
    my $connection = lc($headers{connection} // '');
    return { status => 0 + $status, headers => \%headers, is_last => $connection =~ /close/ || $version eq '1.0' && $connection !~ /keep-alive/ };
}

sub _body ($self, $answer, $method, $deadline) {
    my ($status, $headers, $buffer) = ($answer->{status}, $answer->{headers}, \$self->{buffer});
    $answer->{body} = '';
    return if $method eq 'HEAD' || $status == 204 || $status == 304;
    if (lc($headers->{'transfer-encoding'} // '') =~ /chunked/) {
        while (1) {
            $self->_need(sub { ${$buffer} =~ /\n/ }, $deadline);
            ${$buffer} =~ s/\A([0-9A-Fa-f]+)[^\n]*\n// or die "its answer can't be read\n";
            my $size = hex $1;
            die "its answer is too long\n" if $size + length $answer->{body} > LARGEST_ANSWER;
            if (!$size) {
                $self->_need(sub { ${$buffer} =~ /\A(?:[^\r\n]+\r?\n)*\r?\n/ }, $deadline);
                ${$buffer} =~ s/\A(?:[^\r\n]+\r?\n)*\r?\n//;
                return;
            }
            $self->_need(sub { length ${$buffer} >= $size + 2 }, $deadline);
            $answer->{body} .= substr ${$buffer}, 0, $size, '';
            ${$buffer} =~ s/\A\r?\n// or die "its answer can't be read\n";
        }
    }
    if (defined $headers->{'content-length'}) {
        my ($size) = $headers->{'content-length'} =~ /\A([0-9]{1,15})\z/ or die "its answer can't be read\n";
        if ($size > LARGEST_ANSWER) { ($size, $answer->{is_last}) = (LARGEST_ANSWER, 1) }
        $self->_need(sub { length ${$buffer} >= $size }, $deadline);
        $answer->{body} = substr ${$buffer}, 0, $size, '';
        return;
    }
    1 while length ${$buffer} < LARGEST_ANSWER && $self->_receive($deadline);
    ($answer->{body}, $answer->{is_last}) = (${$buffer}, 1);
    return;
}

sub _need ($self, $is_there, $deadline) {
    until ($is_there->()) { $self->_receive($deadline) or die "it cut its answer\n" }
    return;
}

# --------------------------------------------------------------------------------------------------------------- the socket

sub _connect ($self, $deadline) {
    $self->{buffer} = '';
    my ($error, @found) = getaddrinfo($self->{host}, $self->{port}, { socktype => SOCK_STREAM });
    die "the host $self->{host} can't be found: $error\n" if $error;
    @found = $self->{permit}->(@found) if $self->{permit};
    my $why = 'no address';
    for my $address (@found) {
        socket my $socket, $address->{family}, $address->{socktype}, $address->{protocol} or die "$!\n";
        my $flags = fcntl $socket, F_GETFL, 0;
        fcntl $socket, F_SETFL, $flags | O_NONBLOCK;
        setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
        my ($trusted) = $address->{addr} =~ /\A(.*)\z/s;
        my $is_done = connect $socket, $trusted;
        if (!$is_done && ($! == EINPROGRESS || $! == EINTR)) {
            _wait($socket, 1, $deadline);
            local $! = unpack 'i', getsockopt $socket, SOL_SOCKET, SO_ERROR;
            ($is_done, $why) = ($! == 0, "$!");
        }
        elsif (!$is_done) { $why = "$!" }
        next if !$is_done;
        return $self->{scheme} eq 'https' ? $self->_secured($socket, $deadline) : $socket;
    }
    die "can't connect: $why\n";
}

sub _secured ($self, $socket, $deadline) {
    require IO::Socket::SSL;
    my $tls = $self->{tls};
    my $fault = 0;
    my %options = (
        SSL_startHandshake  => 0,
        SSL_hostname        => $self->{host},
        SSL_verifycn_name   => $self->{host},
        SSL_verifycn_scheme => 'http',
        SSL_verify_mode     => $tls->{verify} // 1 ? IO::Socket::SSL::SSL_VERIFY_PEER() : IO::Socket::SSL::SSL_VERIFY_NONE(),
        SSL_verify_callback => sub ($is_good, $store, @) {
            $fault ||= Net::SSLeay::X509_STORE_CTX_get_error($store) if !$is_good;
            return $is_good;
        },
        (defined $tls->{ca_file}   ? (SSL_ca_file   => $tls->{ca_file})   : ()),
        (defined $tls->{cert_file} ? (SSL_cert_file => $tls->{cert_file}) : ()),
        (defined $tls->{key_file}  ? (SSL_key_file  => $tls->{key_file})  : ()),
    );
    for (grep { defined } @{$tls}{qw(ca_file cert_file key_file)}) { -r or die "no TLS: can't read $_: $!\n" }
    IO::Socket::SSL->start_SSL($socket, %options) or die 'no TLS: ' . IO::Socket::SSL::errstr() . "\n";
    until ($socket->connect_SSL) {
        my $error = $IO::Socket::SSL::SSL_ERROR // '';
        if    ($error == IO::Socket::SSL::SSL_WANT_READ())  { _wait($socket, 0, $deadline) }
        elsif ($error == IO::Socket::SSL::SSL_WANT_WRITE()) { _wait($socket, 1, $deadline) }
        else                                                { die 'no TLS: ' . $self->_explained($error, $fault) . "\n" }
    }
    return $socket;
}

# Why a handshake failed.
sub _explained ($self, $error, $fault) {
    return "the certificate is for another name than $self->{host}: use a name that it holds" if $error =~ /hostname verification/;
    return $error if !$fault;
    my $said = Net::SSLeay::X509_verify_cert_error_string($fault);
    return 'the certificate ' . sprintf $FAULT{$fault} // 'is refused (%s)', $said;
}

sub _send ($self, $data, $deadline) {
    my $done = 0;
    while ($done < length $data) {
        my $count = $self->{socket}->syswrite($data, length($data) - $done, $done);
        if (defined $count) { $done += $count; next }
        $self->_wait_for_socket(1, $deadline);
    }
    return;
}

# Read what there is; false at the end.
sub _receive ($self, $deadline) {
    while (1) {
        my $count = $self->{socket}->sysread($self->{buffer}, CHUNK, length $self->{buffer});
        if (defined $count) {
            die "it did not answer in time\n" if $count && Monitoring::SDK::Retry::now() >= $deadline;
            return $count;
        }
        $self->_wait_for_socket(0, $deadline);
    }
    return;
}

sub _wait_for_socket ($self, $for_writing, $deadline) {
    if ($self->{scheme} eq 'https') {
        my $error = $IO::Socket::SSL::SSL_ERROR // 0;
        return _wait($self->{socket}, 0, $deadline) if $error == IO::Socket::SSL::SSL_WANT_READ();
        return _wait($self->{socket}, 1, $deadline) if $error == IO::Socket::SSL::SSL_WANT_WRITE();
    }
    return                                                 if $! == EINTR;
    return _wait($self->{socket}, $for_writing, $deadline) if $! == EAGAIN || $! == EWOULDBLOCK;
    die \"$!" if !length $self->{buffer};    ## no critic (RequireCarping)
    die "$!\n";
}

sub _wait ($socket, $for_writing, $deadline) {
    while (1) {
        my $left = $deadline - Monitoring::SDK::Retry::now();
        die "it did not answer in time\n" if $left <= 0;
        my $bits = '';
        vec($bits, fileno $socket, 1) = 1;
        my $ready = $for_writing ? select undef, $bits, undef, $left : select $bits, undef, undef, $left;
        return if $ready > 0;
    }
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Transport - HTTP within a deadline

=head1 DESCRIPTION

Internal. A client of HTTP/1.1 that keeps one connection and one deadline for the whole of an exchange, where the timeout of
L<LWP::UserAgent> and L<HTTP::Tiny> begins anew with every byte. Redirects are not followed and proxies of the environment are not
used. A forked child drops the connection of its parent. https needs L<IO::Socket::SSL>.

=head1 METHODS

=head2 new($url, %options)

A transport to one server.

=head2 tls_of(\%block, $base)

A function: the C<tls> block of a backend as the option C<tls>.

=head2 request(\%request, $timeout)

The answer, with C<status>, C<headers> and C<body>; or C<error>. Never dies.

=head2 host, authority, path, origin, is_loopback

Parts of the URL; whether the server is on this machine.

=head2 close

Close the connection.

=head2 forget

Let go of it in a forked child.

=cut
