package Monitoring::SDK::Backends;

# The types of backends that direct mode can deliver to.

use v5.36;

our $VERSION = '0.1.0';

my %MODULE = (
    sidecar    => 'Sidecar',
    filesystem => 'Filesystem',
    s3         => 'S3',
    elk        => 'Elk',
    webhook    => 'Webhook',
);

# What a schema can't tell to be wrong with a backend: places below it, and messages.
sub problems ($type, $config, $base) {
    my $module = $MODULE{$type};
    if (!$module) {
        my $known = join ', ', sort keys %MODULE;
        return ['type', "the Perl SDK delivers to $known; for \"$type\" use the sidecar"];
    }
    my $class = _loaded($module);
    return $class->can('problems') ? $class->problems($config, $base) : ();
}

# The backend of a block of the configuration.
sub make ($settings, $sidecar, $emitter_id) {
    return _loaded($MODULE{ $settings->{type} })->new($settings, $sidecar, $emitter_id);
}

sub _loaded ($module) {
    require "Monitoring/SDK/Backends/$module.pm";
    return "Monitoring::SDK::Backends::$module";
}

1;

__END__

=encoding UTF-8

=head1 NAME

Monitoring::SDK::Backends - where direct mode delivers to

=head1 DESCRIPTION

A backend is an object with these methods:

=over

=item send(\%batch, $timeout)

Delivers C<< $batch->{lines} >>, events as JSON without line feeds, within so many seconds. C<< $batch->{number} >> and
C<< $batch->{log} >> name the first of them for ever. Returns a hash: C<outcome> is C<accepted>, C<retry> (not now), C<keep> (not as
things are configured), C<refused> (never) or C<too_large>; C<detail> says why; C<retry_after> is in seconds; C<rejected> lists
C<< {index, path, error} >> of events that will never be taken; C<retry> lists places of those that may be taken later. Never dies
for trouble with delivery.

=item bounds

The most events and bytes that one C<send> takes.

=item keeps_rejected

Whether the events that it rejects are kept over there.

=item tick, close, forget

Called now and then; at the end; in a forked child, which must not touch what belongs to its parent.

=back

=head1 FUNCTIONS

=head2 problems($type, \%config, $base)

What is wrong with a block, beyond what the schema says.

=head2 make(\%settings, \%sidecar, $emitter_id)

The backend of a block.

=cut
