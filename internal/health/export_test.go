package health

// ReadHealthResponse is for fuzzing.
var ReadHealthResponse = healthResponse
