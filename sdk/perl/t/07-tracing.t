use v5.36;
use Test::More;
use Monitoring::SDK::Event ();
use Monitoring::SDK::JSON  ();

# The real OpenTelemetry is on CPAN only, with much behind it: these packages stand in, with the calls of its API that count here.
package OpenTelemetry::Trace {
    our $span;
    sub span_from_context ($class, $context = undef) { return ref $span eq 'CODE' ? $span->() : $span }
}
package OpenTelemetry::Trace::Span {
    sub context ($self) { return $self->{context} }
}
package OpenTelemetry::Trace::SpanContext {
    sub valid        ($self) { return $self->{trace_id} =~ /[^0]/ }
    sub hex_trace_id ($self) { return $self->{trace_id} }
    sub hex_span_id  ($self) { return $self->{span_id} }
}

package main;

my $origin = Monitoring::SDK::Event::origin({ name => 'a', site_id => 's' });
my $TRACE  = '4bf92f3577b34da6a3ce929d0e0e4736';
my $SPAN   = '00f067aa0ba902b7';

sub span ($trace, $id) {
    my $context = bless { trace_id => $trace, span_id => $id }, 'OpenTelemetry::Trace::SpanContext';
    return bless { context => $context }, 'OpenTelemetry::Trace::Span';
}

sub ids (%more) {
    my ($text) = Monitoring::SDK::Event::encode({ kind => 'log', name => 'x', %more }, $origin, undef);
    my $event = Monitoring::SDK::JSON::decode("{$text}");
    return [@{$event}{qw(trace_id span_id)}];
}

$OpenTelemetry::Trace::span = span($TRACE, $SPAN);
is_deeply ids(), [undef, undef], 'nothing is looked up in a program that does not use OpenTelemetry';

$INC{'OpenTelemetry/Trace.pm'} = __FILE__;    ## no critic (RequireLocalizedPunctuationVars)
is_deeply ids(), [$TRACE, $SPAN], 'the ids of the active span';
is_deeply ids(trace_id => 'a' x 32), ['a' x 32, undef], 'what the program gives itself stays alone';
is_deeply ids(span_id  => 'b' x 16), [undef, 'b' x 16], 'either of the two';

$OpenTelemetry::Trace::span = span('0' x 32, '0' x 16);
is_deeply ids(), [undef, undef], 'no span is active';

$OpenTelemetry::Trace::span = sub { die "broken\n" };
$@ = 'mine';    ## no critic (RequireLocalizedPunctuationVars)
is_deeply ids(), [undef, undef], 'a mistake over there costs no event';
is $@, 'mine', 'and leaves no trace in $@';
done_testing;
