package launch

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Many questions of balancers are one of Envoy's, and a drain needs no answer of it.
func TestReadinessIsCheapAndQuick(t *testing.T) {
	var asked, state atomic.Int64
	state.Store(http.StatusOK)
	envoy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(int(state.Load()))
	}))
	defer envoy.Close()
	a, err := adminAt(envoy.Listener.Addr().String())
	require.NoError(t, err)
	defer a.close()
	r := &readiness{admin: a}
	answer := func() int {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
		return w.Code
	}
	const many = 1000
	for range many {
		require.Equal(t, http.StatusOK, answer())
	}
	require.Less(t, asked.Load(), int64(many/10))

	state.Store(http.StatusServiceUnavailable)
	require.Eventually(t, func() bool { return answer() == http.StatusServiceUnavailable }, patience, freshFor/10)
	state.Store(http.StatusOK)
	require.Eventually(t, func() bool { return answer() == http.StatusOK }, patience, freshFor/10)
	r.drain()
	require.Equal(t, http.StatusServiceUnavailable, answer(), "at once, whatever Envoy said last")
}
