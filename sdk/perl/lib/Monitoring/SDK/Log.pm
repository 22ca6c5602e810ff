package Monitoring::SDK::Log;

# Where the SDK says what it has to say: to standard error, or to whatever code the program has set.

use v5.36;

our $VERSION = '0.1.0';

my %RANK = (debug => 0, info => 1, warning => 2, error => 3);

our $LEVEL = 'warning';
our $SINK;

sub say_it ($level, $message) {
    return if $RANK{$level} < ($RANK{$LEVEL} // 2);
    local ($@, $!, $?, $SIG{__DIE__});
    if ($SINK) {
        return if eval { $SINK->($level, $message); 1 };
    }
    print {*STDERR} "monitoring-sdk: $level: $message\n";
    return;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Log - what the SDK has to say

=head1 SYNOPSIS

    $Monitoring::SDK::Log::LEVEL = 'info';
    $Monitoring::SDK::Log::SINK  = sub ($level, $message) { $logger->$level($message) };

=head1 DESCRIPTION

Messages of C<$LEVEL> (C<debug>, C<info>, C<warning> by default, C<error>) and above go to C<$SINK>, or to standard error.

=head1 FUNCTIONS

=head2 say_it($level, $message)

Say it.

=cut
