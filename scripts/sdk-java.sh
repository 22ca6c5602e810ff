#!/usr/bin/env bash
# Build the Java SDK: jar, sources, javadoc and TCK, with its POM and what it depends on, into build/sdk/java.
# --need: only install what it needs, as root on Debian.
# --harness: build what sdk/java/harness/run needs, once for each state of the sources, and print the folder that holds it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source=$root/sdk/java
source "$root/scripts/debian.sh"

# Maven, without the network when everything is here already.
maven() {
    mvn --batch-mode --quiet --offline "$@" >/dev/null 2>&1 || mvn --batch-mode --quiet "$@" >&2
}

# A JDK and a Maven that come from elsewhere do as well.
command -v javac >/dev/null || debian_packages "the Java SDK" openjdk-17-jdk-headless
command -v mvn >/dev/null || debian_packages "the Java SDK" maven

state=$(cd "$root" && find sdk/java/pom.xml sdk/java/src/main sdk/java/harness contract/config.schema.json -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)

harness() {
    local built=$cache/sdk-java-$state
    if [ ! -d "$built" ]; then
        mkdir -p "$cache"
        exec 8>"$cache/.sdk-java.lock"
        flock 8
        if [ ! -d "$built" ]; then
            draft=$(mktemp -d "$cache/sdk-java-draft-XXXXXX")
            trap 'rm -rf "$draft"' EXIT
            echo "sdk-java: building the SDK and its harness" >&2
            maven -f "$source/pom.xml" -Dbuild.dir="$draft/target" -Dmaven.test.skip -Dmaven.javadoc.skip -Dmaven.source.skip \
                package dependency:copy-dependencies -DincludeScope=runtime -DexcludeArtifactIds=opentelemetry-api,opentelemetry-context \
                -DoutputDirectory="$draft/done/lib"
            mv "$draft"/target/monitoring-sdk-*.jar "$draft/done/monitoring-sdk.jar"
            javac -Xlint:all,-processing -Werror -d "$draft/classes" -cp "$draft/done/monitoring-sdk.jar:$draft/done/lib/*" "$source/harness/Harness.java" >&2
            jar --create --file "$draft/done/harness.jar" -C "$draft/classes" .
            mv "$draft/done" "$built"
            share "$built"
        fi
        flock -u 8
    fi
    echo "$built"
}

# An archive of the classes that a harness loads, so that the next ones start in a fraction of the time.
share() {
    printf '%s\n' \
        '{"do":"initialize","config":{"sdk":{"app":{"name":"share","site_id":"s"},"sidecar":{"url":"http://127.0.0.1:9","retries":0,"enable_spooling":false}}}}' \
        '{"do":"context_start","context":"a","name":"a"}' '{"do":"emit_event","event":{"kind":"log","name":"a","attributes":{"deep":[1]}}}' \
        '{"do":"finish","context":"a"}' '{"do":"flush","timeout":0.3}' '{"do":"close"}' |
        java -XX:ArchiveClassesAtExit="$1/harness.jsa" -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:disable -Xlog:all=off \
            -cp "$1/harness.jar:$1/monitoring-sdk.jar:$1/lib/*" Harness >/dev/null 2>&1 || rm -f "$1/harness.jsa"
}

case "${1:-}" in
--need) exit ;;
--harness)
    harness
    exit
    ;;
esac

out=$root/build/sdk/java
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
maven -f "$source/pom.xml" -Dbuild.dir="$draft/target" -DskipTests package \
    dependency:copy-dependencies -DincludeScope=runtime -DexcludeArtifactIds=opentelemetry-api,opentelemetry-context -DoutputDirectory="$draft/lib"
rm -rf "$out"
mkdir -p "$out"
cp "$draft"/target/monitoring-sdk-*.jar "$out"
cp "$source/pom.xml" "$out/pom.xml"
cp -r "$draft/lib" "$out/lib"
echo "sdk-java: built $(cd "$out" && ls -1 *.jar | tr '\n' ' ')in build/sdk/java"
echo "sdk-java: the harness is started by sdk/java/harness/run"
