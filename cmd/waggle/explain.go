package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/translate/explain"
)

func explainCommand() *cobra.Command {
	var collection string
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain -f FILE… --collection C [METHOD] URL",
		Short: "Say which route takes a request and why, which lost, and where it goes",
		Example: `  waggle explain -f stack.yml --collection prod http://shop.example.com/api/v1
  waggle explain -f stack.yml POST http://shop.example.com/cart -H 'X-Beta: yes'`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			format, err := formats(cmd, "text", "json")
			if err != nil {
				return err
			}
			header, err := parseHeaders(headers)
			if err != nil {
				return err
			}
			method, url := http.MethodGet, args[0]
			if len(args) == 2 {
				method, url = strings.ToUpper(args[0]), args[1]
			}
			s, err := loadStackFlag(cmd)
			if err != nil {
				return err
			}
			if err := s.collection(collection); err != nil {
				return err
			}
			answer, err := explain.Explain(s.built.Resources(collection), explain.Request{
				Collection: collection, Method: method, URL: url, Header: header,
			}, s.problems())
			if err != nil {
				return err
			}
			if format == "json" {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				e.SetEscapeHTML(false)
				return e.Encode(answer)
			}
			return answer.Text(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&collection, "collection", "default", "whose proxies are asked")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a request header, 'Name: value' (may be repeated)")
	cmd.Flags().String("format", "text", "text or json")
	stackFlag(cmd)
	return cmd
}

func parseHeaders(lines []string) (http.Header, error) {
	h := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		if !ok || strings.TrimSpace(name) == "" {
			return nil, fmt.Errorf("-H %q is not a header: write 'Name: value'", l)
		}
		h.Add(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return h, nil
}
