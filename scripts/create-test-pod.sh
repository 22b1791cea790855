#!/bin/sh
# Makes a pod by the pod agent's API and shows its answer.
# usage: scripts/create-test-pod.sh [POD_ID]   (POD_HOST_URL: where the agent is, http://localhost:8080)
set -eu
POD_ID=${1:-test-$(date +%s)}
curl -fsS -X POST "${POD_HOST_URL:-http://localhost:8080}/create-pod" \
    ${POD_HOST_API_KEY:+-H "X-API-Key: $POD_HOST_API_KEY"} \
    -H "Content-Type: application/json" \
    -d '{
    "podId": "'"$POD_ID"'",
    "config": {
      "tier": "dev.small",
      "cpu": "0.5",
      "memory": "1g"
    }
  }'
echo
echo "Created pod: $POD_ID"
