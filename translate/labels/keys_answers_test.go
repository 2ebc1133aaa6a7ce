package labels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A text behind an answer that has none is the beginning of the next answer to whoever
// reads the connection.
func TestAnswersWithoutTextHaveNone(t *testing.T) {
	for text, reason := range map[string]string{
		"204": "", "304,": "", "205": "", "200,": "", "503,Back at 100 %, we hope.": "", "599": "",
		"204,hello": "an answer of status 204 has no text", "205,x": "an answer of status 205 has no text", "304, ": "an answer of status 304 has no text",
		"301": `"301" redirects, and does not say where`, "308,x": `"308" redirects, and does not say where`, "199": `"199" is out of range`, "x": `"x" is not a whole number`,
	} {
		_, err := fixedAnswer.read(text)
		if reason == "" {
			require.NoError(t, err, text)
			continue
		}
		require.Error(t, err, text)
		require.Equal(t, reason, noteOf(err).reason, text)
		require.NotEmpty(t, noteOf(err).hint, text)
	}
	for _, text := range []string{"204", "205", "304"} { // Envoy's own text would stand there
		_, err := abortStatus.read(text)
		require.Error(t, err, text)
	}
}
