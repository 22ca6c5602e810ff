use v5.36;
no warnings 'experimental::builtin';
use Test::More;
use Math::BigInt ();
use Monitoring::SDK::JSON ();

sub json ($value) { return Monitoring::SDK::JSON::value('attributes', $value, 2) }

is json('21.5'), '"21.5"', 'text that looks like a number stays text';
is json(21.5), '21.5', 'a number is one';
{ my $text = '7'; my $sum = $text + 1; is json($text), '"7"', 'text that was used as a number stays text' }
{ my $number = 7; my $shown = "$number"; is json($number), '7', 'a number that was shown stays a number' }
is json(9_007_199_254_740_993), '9007199254740993', '2^53+1 is exact';
is json(-9_223_372_036_854_775_807 - 1), '-9223372036854775808', 'the smallest integer is exact';
is json(18_446_744_073_709_551_615), '18446744073709551615', 'the largest integer is exact';
is json(0.1 + 0.2), '0.30000000000000004', 'a double keeps all its digits';
is json(1e308 * 10), 'null', 'infinity is null';
is json(Math::BigInt->new('1' . '0' x 30)), '1' . '0' x 30, 'a big integer is exact';
is json([!!1, !!0, \1, \0, undef]), '[true,false,true,false,null]', 'booleans and null';
is json("\x{e9}"), '"' . "\xef\xbf\xbd" . '"', 'a byte that is no UTF-8 becomes U+FFFD';
is json("\xc3\xa9"), qq("\xc3\xa9"), 'bytes that are UTF-8 are taken as such';
{ my $text = "\x{263a}"; is json($text), qq("\xe2\x98\xba"), 'characters become UTF-8' }
is json("a\0b"), qq("a\xef\xbf\xbdb"), 'U+0000 becomes U+FFFD';
is json("\x{d800}x"), qq("\xef\xbf\xbdx"), 'a lone surrogate becomes U+FFFD';
is json(qq(a"\\\n\x01)), '"a\"\\\\\n\u0001"', 'what JSON wants escaped';
ok !eval { json(sub { }); 1 }, 'code is no JSON';
like $@->error, qr/expected JSON, got CODE/, 'and is named';
done_testing;
