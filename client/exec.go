package client

// TokenProtocol starts the WebSocket subprotocol in which a browser, which cannot set headers, sends its token.
const TokenProtocol = "vortex.token."

// StreamProtocol is the WebSocket subprotocol of every stream.
const StreamProtocol = "vortex.v1"

// Frame is the kind of one message of an exec stream: a binary message is this byte, then its content.
type Frame byte

// The kinds of frames.
const (
	FrameStdin    Frame = iota // to the server: bytes
	FrameStdinEnd              // to the server: nothing more comes
	FrameResize                // to the server: a WindowSize as JSON
	FrameStdout                // from the server: bytes
	FrameStderr                // from the server: bytes; not with a terminal
	FrameExit                  // from the server, last: an ExecResult as JSON
)

// WindowSize is a terminal's size in characters.
type WindowSize struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ExecResult is how a command ended: with an exit code, or with an error that kept it from running.
type ExecResult struct {
	ExitCode int        `json:"exit_code"`
	Status   int        `json:"status,omitempty"` // with Error: the HTTP status it would have had
	Error    *ErrorBody `json:"error,omitempty"`
}
