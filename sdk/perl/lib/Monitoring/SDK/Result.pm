package Monitoring::SDK::Result;

# What became of events, for each backend: what `flush` answers, and `emit_batch` in scalar context.

use v5.36;

use overload
    'bool'   => sub ($self, @) { $self->is_safe },
    '@{}'    => sub ($self, @) { [$self->event_ids] },
    fallback => 1;

our $VERSION = '0.1.0';

sub of_flush ($class, $is_safe, $backends) {
    return bless { is_safe => $is_safe, backends => $backends }, $class;
}

sub of_batch ($class, $ids, $queue) {
    return bless { ids => $ids, watch => { from => 1, to => 0, heard => {} }, queue => $queue }, $class;
}

# Watch the events of these numbers.
sub watch ($self, $from, $to) {
    my $watch = $self->{watch};
    @{$watch}{qw(from to)} = ($from, $to);
    $self->{queue}->watch($watch);
    return;
}

sub event_ids ($self) { return @{ $self->{ids} // [] } }

sub backends ($self) {
    return $self->{backends} if $self->{backends};
    my ($watch, $queue) = @{$self}{qw(watch queue)};
    my $expected = $watch->{to} - $watch->{from} + 1;
    my %results;
    for my $name ($queue->always, keys %{ $watch->{heard} }) {
        my %heard   = %{ $watch->{heard}{$name} // {} };
        my %numbers = map { ($_ => $heard{$_} // 0) } qw(delivered spooled failed dropped);
        $numbers{failed} += $heard{rejected} // 0;
        my $settled = 0;
        $settled += $_ for values %numbers;
        $results{$name} = { %numbers, waiting => $expected > $settled ? $expected - $settled : 0 };
    }
    return \%results;
}

sub is_safe ($self) {
    return $self->{is_safe} if exists $self->{is_safe};
    for my $result (values %{ $self->backends }) {
        return 0 if $result->{waiting} || $result->{dropped};
    }
    return 1;
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Result - what became of events

=head1 SYNOPSIS

    my $result = Monitoring::SDK::flush(5);
    warn 'not all events are safe' if !$result;
    my $counts = $result->backends->{sidecar};
    print "$counts->{delivered} delivered, $counts->{spooled} on disk\n";

    my $batch = Monitoring::SDK::emit_batch(\@events);
    print "$_\n" for $batch->event_ids;

=head1 DESCRIPTION

As a boolean it tells whether all the events are safe: delivered, on disk, or kept aside because somebody refused them.

=head1 METHODS

=head2 is_safe

The same, by name.

=head2 event_ids

Of a batch: the ids of its events, in their order.

=head2 backends

A hash with a result for each backend (in sidecar mode the only one is C<sidecar>): counts of events C<delivered>, C<spooled>,
C<failed>, C<dropped> and C<waiting>; of C<flush> counted since C<initialize> and with C<replayed> (delivered from disk) and C<error>
(why it takes no events now). A fallback that was not needed is left out of a batch's.

=head2 of_flush, of_batch, watch

Internal.

=cut
