use v5.36;
use Test::More;
use File::Find ();
use Pod::Checker ();

my @files;
File::Find::find(sub { push @files, $File::Find::name if /[.]pm\z/ }, 'lib');
for my $file (sort @files) {
    my $checker = Pod::Checker->new(-warnings => 1);
    open my $out, '>', \my $told or die $!;
    $checker->parse_from_file($file, $out);
    is $checker->num_errors + $checker->num_warnings, 0, "$file has sound POD" or diag $told;
    open my $in, '<', $file or die $!;
    my $text = do { local $/ = undef; <$in> };
    my ($pod) = $text =~ /\n__END__\n(.*)\z/s;
    my %subs = map { ($_ => 1) } $text =~ /^sub ([a-z]\w*)/gm;
    my @bare = grep { $pod !~ /^=(?:head\d|item) [^\n]*\b\Q$_\E\b/m } sort keys %subs;
    is "@bare", '', "$file documents every function";
}
done_testing;
