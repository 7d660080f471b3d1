#!/bin/sh
# Usage: validate.sh BUNDLE REPORT [OPTION...]
# Further options go to `korsbert validate`, for example: --checkpoint FOLDER, --sts FILE.
set -eu
bundle=$1
report=$2
shift 2
korsbert validate --gates "$(dirname "$0")/gates.yaml" --junit "$report" "$@" -- "$bundle"
