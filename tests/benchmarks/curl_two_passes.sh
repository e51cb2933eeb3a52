#!/bin/sh
# curl in two passes: a PUT for every link, then a GET for every PDF.
# Usage: curl_two_passes.sh IDS DIRECTORY API_URL WORKERS
set -eu
ids=$1 directory=$2 api=$3 workers=$4
mkdir -p "$directory"
quiet="--parallel --parallel-max $workers --no-progress-meter --fail --retry 5"

{
    echo 'header = "Authorization: Bearer token"'
    sed "s|.*|url = \"$api/invoices/&/download-link?secondsValid=600\"|" "$ids"
} >"$directory/puts.curl"
# shellcheck disable=SC2086 # the flags are words
curl $quiet --request PUT --config "$directory/puts.curl" >"$directory/links.json"

# The answers stand one behind the other: {"url":"http://host/ID"}{"url":...
sed -E 's|\{"url":"([^"]*/([^"/]*))"\}|url = "\1"\noutput = "\2.pdf"\n|g' "$directory/links.json" >"$directory/gets.curl"
cd "$directory"
# shellcheck disable=SC2086
curl $quiet --config gets.curl
