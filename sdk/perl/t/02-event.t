use v5.36;
use Test::More;
use Monitoring::SDK::Event ();
use Monitoring::SDK::JSON  ();

my $origin = Monitoring::SDK::Event::origin({ name => 'a', site_id => 's' });
sub encoded ($event) { return Monitoring::SDK::JSON::decode('{' . (Monitoring::SDK::Event::encode($event, $origin, undef))[0] . '}') }

sub refused ($event, $path, $error) {
    ok !eval { encoded($event); 1 }, "refused: $error";
    is $@->path, $path, "at '$path'";
    like $@->error, $error, 'with the reason';
}

is_deeply encoded({ kind => 'log', name => 'x' }), { kind => 'log', name => 'x', site_id => 's', app => { name => 'a' } }, 'a bare event';
refused({ name => 'x' }, 'kind', qr/required field is missing/);
refused({ kind => 'log' }, 'name', qr/required field is missing/);
refused({ kind => 'stop', name => 'x' }, 'kind', qr/expected one of start, .* got 'stop'/);
refused({ kind => 'log', name => 'x', sevrity => 'info' }, 'sevrity', qr/did you mean 'severity'/);
refused({ kind => 'log', name => 'x', progress => 0.5 }, 'progress', qr/only allowed on kind progress, not on log/);
refused({ kind => 'log', name => 'x', emitter => {} }, 'emitter', qr/made by the SDK/);
refused({ kind => 'log', name => 'x', metrics => { t => '21.5' } }, 'metrics.t', qr/expected number, got string; write 0 \+/);
refused({ kind => 'log', name => 'x', metrics => { t => !!1 } }, 'metrics.t', qr/expected number, got boolean/);
refused({ kind => 'log', name => 'x', entities => { wafer => 7 } }, 'entities.wafer', qr/expected string, got integer/);
refused({ kind => 'log', name => 'x', timestamp => '2026-02-30T00:00:00Z' }, 'timestamp', qr/RFC 3339/);
refused({ kind => 'log', name => 'x', timestamp => '1970-01-01T00:00:00+00:01' }, 'timestamp', qr/got year 1969/);
refused({ kind => 'log', name => 'x', name => 'n' x 257 }, 'name', qr/at most 256/);
refused([], '', qr/expected a hash/);
{
    my $event = encoded({ kind => 'metric', name => 'x', metrics => { good => 1, bad => 9**9**9, worse => -sin 9**9**9 } });
    is_deeply $event->{metrics}, { good => 1 }, 'metrics that are no numbers are left out';
    is_deeply $event->{attributes}{dropped_metrics}, [qw(bad worse)], 'and named';
}
{
    my $event = encoded({ kind => 'log', name => 'x', message => "\x{e9}" x 5000 . "\x{263a}" });
    utf8::encode(my $bytes = $event->{message});
    is length $bytes, 8192, 'a long message is cut at a character';
    ok $event->{attributes}{truncated}, 'and marked';
}
{
    my $deep = {};
    $deep = { d => $deep } for 1 .. 62;
    ok encoded({ kind => 'log', name => 'x', attributes => $deep }), '64 levels are taken';
    refused({ kind => 'log', name => 'x', attributes => { d => $deep } }, 'attributes', qr/deeper than 64/);
    my $ring = {};
    $ring->{ring} = $ring;
    refused({ kind => 'log', name => 'x', attributes => $ring }, 'attributes', qr/deeper than 64/);
    delete $ring->{ring};
}
done_testing;
