package main

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/admin/api"
	"github.com/waggle-lb/waggle/translate/explain"
)

func explainCommand() *cobra.Command {
	var collection string
	var headers []string
	cmd := &cobra.Command{
		Use:   "explain (-f FILE… | --api HOST:PORT) --collection C [METHOD] URL",
		Short: "Say which route takes a request and why, which lost, and where it goes",
		Example: `  waggle explain -f stack.yml --collection prod http://shop.example.com/api/v1
  waggle explain -f stack.yml POST http://shop.example.com/cart -H 'X-Beta: yes'
  waggle explain --api 127.0.0.1:19000 http://shop.example.com/    # a running control plane`,
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
			asked := explain.Request{Collection: collection, Method: method, URL: url, Header: header}
			ask := explainStack
			if cmd.Flags().Changed("api") {
				ask = explainRunning
			}
			answer, err := ask(cmd, asked)
			if err != nil {
				return err
			}
			if format == "json" {
				return writeJSON(cmd.OutOrStdout(), answer)
			}
			return answer.Text(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&collection, "collection", "default", "whose proxies are asked")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a request header, 'Name: value' (may be repeated)")
	cmd.Flags().String("format", "text", "text or json")
	stackFlag(cmd)
	apiFlags(cmd)
	cmd.MarkFlagsMutuallyExclusive("file", "api")
	return cmd
}

// explainStack asks what stack files would do.
func explainStack(cmd *cobra.Command, r explain.Request) (*explain.Answer, error) {
	s, err := loadStackFlag(cmd)
	if err != nil {
		return nil, err
	}
	if err := s.collection(r.Collection); err != nil {
		return nil, err
	}
	return explain.Explain(s.built.Resources(r.Collection), r, s.problems())
}

// explainRunning asks control planes, until one answers.
func explainRunning(cmd *cobra.Command, r explain.Request) (*explain.Answer, error) {
	if !cmd.Flags().Changed("collection") {
		r.Collection = "" // the control plane knows which is the default
	}
	replicas, err := apiClients(cmd)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, c := range replicas {
		answer, err := c.Explain(cmd.Context(), r)
		if err == nil {
			return answer, nil
		}
		if refused, ok := errors.AsType[*api.Refused](err); ok && refused.Status < 500 {
			return nil, errors.New(refused.Reason)
		}
		errs = append(errs, fmt.Errorf("ask the control plane at %s: %w", c.Address, err))
	}
	return nil, errors.Join(errs...)
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
