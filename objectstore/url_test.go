package objectstore_test

import (
	"strings"
	"testing"

	"varve.dev/objectstore"
)

func TestParseURL(t *testing.T) {
	cases := map[string]objectstore.URL{
		"memory:":         {Scheme: objectstore.Memory},
		"file:///var/lib": {Scheme: objectstore.File, Dir: "/var/lib"},
		"file:///a%20b":   {Scheme: objectstore.File, Dir: "/a b"},
		"s3://bucket":     {Scheme: objectstore.S3, Bucket: "bucket"},
		"s3://bucket/":    {Scheme: objectstore.S3, Bucket: "bucket"},
		"s3://my.bucket-1/a/b/?region=eu-central-1": {Scheme: objectstore.S3, Bucket: "my.bucket-1", Prefix: "a/b", Region: "eu-central-1"},
		"s3://bucket?endpoint=localhost:9000":       {Scheme: objectstore.S3, Bucket: "bucket", Endpoint: "http://localhost:9000", PathStyle: true},
		"s3://bucket?endpoint=s3.example.org":       {Scheme: objectstore.S3, Bucket: "bucket", Endpoint: "https://s3.example.org", PathStyle: true},
		"s3://bucket?path-style=true":               {Scheme: objectstore.S3, Bucket: "bucket", PathStyle: true},
		"minio://bucket/p?endpoint=http://minio.lan:9000&region=us-east-1&path-style=false": {
			Scheme: objectstore.MinIO, Bucket: "bucket", Prefix: "p", Endpoint: "http://minio.lan:9000", Region: "us-east-1"},
		"minio://bucket?endpoint=[::1]:9000":             {Scheme: objectstore.MinIO, Bucket: "bucket", Endpoint: "http://[::1]:9000", PathStyle: true},
		"minio://bucket?endpoint=https://127.0.0.1:443/": {Scheme: objectstore.MinIO, Bucket: "bucket", Endpoint: "https://127.0.0.1:443", PathStyle: true},
	}
	for raw, want := range cases {
		got, err := objectstore.ParseURL(raw)
		if err != nil || got != want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", raw, got, err, want)
		}
		if again, err := objectstore.ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%s: String gives %q, which reads as %+v, %v", raw, got.String(), again, err)
		}
	}
}

func TestParseURLNamesEveryMistake(t *testing.T) {
	cases := map[string][]string{
		"":                           {`scheme "" is unknown`},
		"/var/lib":                   {`scheme "" is unknown`, "file, memory, s3 and minio"},
		"gs://bucket":                {`scheme "gs" is unknown`},
		"file://data/x":              {"file:///data/x"},
		"file:data":                  {"file:///DIR"},
		"file:///x?sync=no":          {"no parameters"},
		"memory:x":                   {"nothing behind the colon"},
		"s3:///prefix":               {"bucket is missing"},
		"s3:bucket":                  {"two slashes are missing"},
		"s3://Bucket_1":              {`"Bucket_1" is no bucket name`},
		"s3://ab":                    {`"ab" is no bucket name`},
		"s3://bucket/a//b":           {"a part is empty"},
		"s3://bucket/a b":            {`' '`},
		"s3://key:secret@bucket":     {"credentials do not belong", "AWS_ACCESS_KEY_ID"},
		"s3://bucket?pathstyle=true": {`"pathstyle" is unknown`, "path-style"},
		"minio://bucket":             {"minio:// needs endpoint="},
		"minio://b?endpoint=ftp://x&region=&region=a&path-style=maybe&zone=1#top": {
			`"b" is no bucket name`, `scheme "ftp"`, "region is there 2 times", `path-style="maybe"`, `"zone" is unknown`, `"top"`},
		"s3://bucket?endpoint=http://host/path":      {"must end after the port"},
		"s3://bucket?endpoint=http://user:word@host": {"must not hold credentials"},
		"s3://bucket?endpoint=":                      {"endpoint is not HOST:PORT"},
		"s3://bucket?region=eu%20central":            {`region="eu central"`},
		"s3://bucket?%zz":                            {"not name=value pairs"},
		"s3://bucket:80\x7f":                         {"not a URL"},
	}
	for raw, wants := range cases {
		_, err := objectstore.ParseURL(raw)
		if err == nil {
			t.Errorf("%q was accepted", raw)
			continue
		}
		for _, want := range wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: got %q, want it to say %q", raw, err, want)
			}
		}
		if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "word") {
			t.Errorf("%q: the message tells the password: %q", raw, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"memory:", "file:///a/b", "s3://bucket/p?endpoint=localhost:1&path-style=true", "minio://b?region=%41", "s3://[::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := objectstore.ParseURL(raw)
		if err != nil {
			return
		}
		if again, err := objectstore.ParseURL(got.String()); err != nil || again != got {
			t.Errorf("%q reads as %+v, its String %q as %+v, %v", raw, got, got.String(), again, err)
		}
	})
}
