package Monitoring::SDK::Error;

# What the SDK dies with when the program misuses it. Trouble with delivery is no error: it is counted, logged and mended.

use v5.36;

use overload '""' => sub ($self, @) { $self->text }, 'bool' => sub { 1 }, fallback => 1;

our $VERSION = '0.1.0';

sub throw ($class, %fields) {
    my ($file, $line) = _caller();
    die bless {%fields, file => $file, line => $line}, $class;    ## no critic (RequireCarping)
}

sub message ($self) { return $self->{message} }
sub text    ($self) { return $self->message . " at $self->{file} line $self->{line}.\n" }

sub _caller () {
    my $level = 1;
    while (my ($package, $file, $line) = caller $level++) {
        return ($file, $line) if $package !~ /\AMonitoring::SDK(?:\z|::)/;
    }
    return ('unknown', 0);
}

package Monitoring::SDK::Error::InvalidEvent;    ## no critic (ProhibitMultiplePackages)

use v5.36;
use parent -norequire, 'Monitoring::SDK::Error';

sub path    ($self) { return $self->{path} }
sub error   ($self) { return $self->{error} }
sub message ($self) { return 'invalid event: ' . (length $self->{path} ? "$self->{path}: " : '') . $self->{error} }

package Monitoring::SDK::Error::Configuration;    ## no critic (ProhibitMultiplePackages)

use v5.36;
use parent -norequire, 'Monitoring::SDK::Error';

sub problems ($self) { return @{ $self->{problems} } }

sub message ($self) {
    my @lines = map { length $_->{path} ? "  $_->{path}: $_->{message}" : "  $_->{message}" } $self->problems;
    return join "\n", "$self->{source} has " . @lines . ' mistake' . (@lines == 1 ? '' : 's') . ':', @lines;
}

sub text ($self) { return $self->message . "\nat $self->{file} line $self->{line}.\n" }

package Monitoring::SDK::Error::NotInitialized;    ## no critic (ProhibitMultiplePackages)

use v5.36;
use parent -norequire, 'Monitoring::SDK::Error';

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Error - what the Monitoring SDK dies with

=head1 SYNOPSIS

    eval { Monitoring::SDK::emit_event(\%event); 1 } or do {
        my $error = $@;
        if (ref $error && $error->isa('Monitoring::SDK::Error::InvalidEvent')) {
            warn $error->path, ': ', $error->error;
        }
    };

=head1 DESCRIPTION

Misuse dies at once with one of these objects, which read as text like any error message. Trouble with delivery never dies.

=over

=item Monitoring::SDK::Error::InvalidEvent

An event that breaks the contract.

=item Monitoring::SDK::Error::Configuration

A configuration with mistakes, all of them.

=item Monitoring::SDK::Error::NotInitialized

A call before C<initialize> or after C<close>, or a second C<initialize>.

=back

=head1 METHODS

=head2 throw(%fields)

Dies with a new object of the class that says where the program called the SDK.

=head2 message

What is wrong, without the place.

=head2 text

The same with file and line; also what the object is as a string.

=head2 path

Of an invalid event: the dotted path of the field; in a batch it begins with C<[index]>.

=head2 error

Of an invalid event: what was expected there.

=head2 problems

Of a configuration: a list of hashes with C<path> and C<message>.

=cut
