use v5.36;
no warnings 'experimental::builtin';
use Test::More;
use Cwd        qw(getcwd);
use File::Temp qw(tempdir);
use Monitoring::SDK::Config ();

my $folder = tempdir(CLEANUP => 1);
my $home   = getcwd();
chdir $folder;

sub load (@arguments) { return Monitoring::SDK::Config::load(@arguments) }

sub written ($name, $text) {
    open my $out, '>', "$folder/$name" or die $!;
    print {$out} $text;
    close $out;
    return "$folder/$name";
}

sub mistakes ($config, $environment = {}) {
    ok !eval { load($config, $environment); 1 }, 'refused';
    return map { $_->{path} } $@->problems;
}

my %app = (app => { name => 'a', site_id => 's' });
is load({ sdk => {%app} }, {})->{queue}{batch_size}, 500, 'defaults';
is_deeply [mistakes({ sdk => {} })], ['sdk.app'], 'app is required';
is_deeply [mistakes({ sdk => { %app, queue => { batch_size => 'many', on_full => 'x' }, mode => 'sideways' } })],
    [qw(sdk.mode sdk.queue.batch_size sdk.queue.on_full)], 'all mistakes at once';
is_deeply [mistakes({ sdk => {%app} }, { MONITORING_SDK__QUEUE__BATCH_SIZE => 'many' })], ['sdk.queue.batch_size'], 'of the environment, too';
is_deeply [mistakes({ sdk => { app => { name => '${NONE}', site_id => 's' } } })], ['sdk.app.name'], 'a variable that is not set';
is_deeply [mistakes({ sdk => { %app, mode => 'direct', direct_backends => [{ type => 'zabbix', config => { url => 'x' } }] } })],
    ['sdk.direct_backends[0].type'], 'a type that Perl does not know';
my $file = written('c.yaml', <<'YAML');
sdk:
  sidecar: {url: "${WHERE:-http://localhost:1}", timeout: 0.5, spool_dir: below, token: ${TOKEN}}
  app: {name: "7", version: 2, site_id: fab1}
YAML
my $settings = load($file, { TOKEN => 'secret' });
is $settings->{sidecar}{url}, 'http://localhost:1', 'a default of a variable';
is $settings->{sidecar}{token}, 'secret', 'a variable without quotes';
is $settings->{sidecar}{timeout}, 0.5, 'a number of YAML';
is $settings->{sidecar}{spool_dir}, "$folder/below", 'relative to the file that names it';
is $settings->{app}{version}, '2', 'a version without quotes is text';
is load($file, { TOKEN => '', MONITORING_SDK__APP__NAME => '12' })->{app}{name}, '12', 'text of the environment stays text';
ok !load($file, { TOKEN => '', MONITORING_SDK__SIDECAR__ENABLE_SPOOLING => 'false' })->{sidecar}{enable_spooling}, 'a boolean of the environment';
ok !eval { load("$folder/none.yaml", {}); 1 }, 'a file that is not there';
like "$@", qr/none[.]yaml/, 'is named';
chdir $home;
done_testing;
