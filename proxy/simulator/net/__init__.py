"""An HTTP/1.1 server that frames its answers as Go's ``net/http`` does."""
