#!/bin/sh
# Usage: serve.sh BUNDLE REPOSITORY
set -eu
korsbert ship "$1" --repository "$2" --runtime python
korsbert check "$2"
