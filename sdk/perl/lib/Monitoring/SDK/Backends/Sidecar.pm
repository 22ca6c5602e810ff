package Monitoring::SDK::Backends::Sidecar;

# Delivers to the sidecar: `POST {url}/v1/ingest/events` with JSON Lines.

use v5.36;

use Compress::Zlib ();

use Monitoring::SDK::JSON      ();
use Monitoring::SDK::Retry     ();
use Monitoring::SDK::Transport ();

our $VERSION = '0.1.0';

use constant {
    INGEST_PATH       => '/v1/ingest/events',
    WORTH_COMPRESSING => 1400,
    MAX_EVENTS        => 5000,
    MAX_BYTES         => 1024 * 1024 - 4096,
};

my %IS_TRY_AGAIN = map { ($_ => 1) } 408, 425, 429;
my %IS_REFUSED   = map { ($_ => 1) } 400, 415, 422;

sub new ($class, $settings, $sidecar, $emitter_id) {
    my $url   = $settings->{config}{url}   // $sidecar->{url};
    my $token = $settings->{config}{token} // $sidecar->{token} // '';
    my $transport = Monitoring::SDK::Transport->new(($url =~ s{/+\z}{}r) . INGEST_PATH);
    my %headers = ('Content-Type' => 'application/x-ndjson');
    $token =~ s/\A\s+|\s+\z//g;
    $headers{Authorization} = "Bearer $token" if length $token;
    return bless { transport => $transport, headers => \%headers }, $class;
}

sub bounds         ($self) { return (MAX_EVENTS, MAX_BYTES) }
sub keeps_rejected ($self) { return 1 }
sub tick           ($self) { return }
sub close          ($self) { return $self->{transport}->close }     ## no critic (ProhibitBuiltinHomonyms)
sub forget         ($self) { return $self->{transport}->forget }

sub send ($self, $batch, $timeout) {    ## no critic (ProhibitBuiltinHomonyms)
    my $body    = join "\n", @{ $batch->{lines} }, '';
    my %headers = %{ $self->{headers} };
    if (length $body > WORTH_COMPRESSING && !$self->{transport}->is_loopback) {
        utf8::downgrade($body);
        my $packed = Compress::Zlib::memGzip($body);
        ($body, $headers{'Content-Encoding'}) = ($packed, 'gzip') if length $packed < length $body;
    }
    return _judged($self->{transport}->request({ headers => \%headers, body => $body }, $timeout));
}

sub _judged ($answer) {
    return { outcome => 'retry', detail => $answer->{error}, timed_out => $answer->{timed_out} } if defined $answer->{error};
    my $status = $answer->{status};
    return _acknowledgement($answer) if $status >= 200 && $status < 300;
    my $detail = "it answered $status: " . said($answer->{body});
    if ($IS_TRY_AGAIN{$status} || $status >= 500) {
        my $pause = Monitoring::SDK::Retry::retry_after($answer->{headers}{'retry-after'});
        return { outcome => 'retry', detail => $detail, retry_after => $pause };
    }
    return { outcome => $status == 413 ? 'too_large' : $IS_REFUSED{$status} ? 'refused' : 'keep', detail => $detail };
}

# Only an answer that says what it accepted is one: anything may listen on that port.
sub _acknowledgement ($answer) {
    local ($@, $SIG{__DIE__});
    my $told = eval { Monitoring::SDK::JSON::decode($answer->{body}) };
    if (ref $told ne 'HASH' || Monitoring::SDK::JSON::kind_of($told->{accepted}) ne 'integer') {
        my $detail = "it answered $answer->{status} with something that is no acknowledgement: " . said($answer->{body});
        return { outcome => 'retry', detail => $detail };
    }
    my @rejected = ref $told->{rejected} eq 'ARRAY' ? grep { ref eq 'HASH' } @{ $told->{rejected} } : ();
    return {
        outcome  => 'accepted',
        rejected => [map { { index => $_->{index} // -1, path => $_->{path} // '', error => $_->{error} // '' } } @rejected],
    };
}

# The beginning of an answer, in one line.
sub said ($body) {
    my $text = join ' ', split ' ', substr($body, 0, 400) =~ s/[^\x20-\x7e]+/ /gr;
    return length $text ? substr $text, 0, 200 : 'nothing';
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends::Sidecar - delivers to TrackMate's sidecar

=head1 DESCRIPTION

Internal; the methods are those of every backend, see L<Monitoring::SDK::Backends>. In direct mode its C<config> may have C<url>
and C<token>, else those of C<sdk.sidecar> hold.

=head1 METHODS

=head2 new(\%settings, \%sidecar, $emitter_id), send(\%batch, $timeout), bounds, keeps_rejected, tick, close, forget

As of every backend.

=head1 FUNCTIONS

=head2 said($body)

The beginning of an answer in one line, for messages.

=cut
