"""What is said of the credentials of the API server."""

NO_KUBECONFIG = (
    "no cluster is configured: not inside a pod (no ServiceAccount token), and there is no {path}"
)
KUBECONFIG_MISSING = (
    "no cluster is configured: there is no {path}, which is named as the kubeconfig (KUBECONFIG)"
)
KUBECONFIG = "{path}: {detail}; expected a kubeconfig as kubectl reads it"
TOKEN_FILE = "the tokenFile of {path}"
TOKEN_EMPTY = "{file} is empty; expected a token"
TOKEN_UNREAD = "{file} cannot be read: {detail}; expected a file that holds the token"
EXEC_FAILED = "the credential plugin {command} of {path} failed: {detail}"
EXEC_SLOW = "it timed out after {seconds:g} seconds"
EXEC_ENDED = "it ended with status {status} and said nothing"
EXEC_ANSWER = "its answer is no ExecCredential with a status"
EXEC_CERTIFICATE = (
    "the credential plugin {command} of {path} gives a client certificate; expected a token"
)
