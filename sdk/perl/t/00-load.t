use v5.36;
use Test::More;

my @modules = qw(
    Monitoring::SDK Monitoring::SDK::Config Monitoring::SDK::Context Monitoring::SDK::Event Monitoring::SDK::Queue
    Monitoring::SDK::Spool Monitoring::SDK::Transport Monitoring::SDK::Backends::Sidecar Monitoring::SDK::Backends::Filesystem
    Monitoring::SDK::Backends::S3 Monitoring::SDK::Backends::Elk Monitoring::SDK::Backends::Webhook
);
require_ok($_) for @modules;
done_testing;
