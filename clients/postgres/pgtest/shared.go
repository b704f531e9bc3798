package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"github.com/lib/pq"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
)

// externalURL is the environment variable that names a server to use instead of a private one.
const externalURL = "FLOTILLA_TEST_DATABASE_URL"

// shared is the one server of this test process. Its TestMain ends it.
var shared sharedServer

// sharedServer is started by the first test that needs it.
type sharedServer struct {
	once sync.Once
	err  error

	private *Server // nil: an external server
	admin   *sql.DB
	base    *url.URL

	mu        sync.Mutex
	templates map[string]func() (string, error) // by the name that Template was given
	made      []string                          // the databases that they are
}

// quick are the settings of the shared server. They trade all safety for speed: nothing outlives the test process.
var quick = map[string]string{
	"fsync":              "off",
	"full_page_writes":   "off",
	"synchronous_commit": "off",
	"max_connections":    "200",
	"shared_buffers":     "64MB",
	"max_wal_size":       "256MB", // it may be in memory
}

func (s *sharedServer) start(ctx context.Context) error {
	s.templates = map[string]func() (string, error){}
	maintenance := os.Getenv(externalURL)
	if maintenance == "" {
		private, err := newServer(ctx, quick, memory())
		if err != nil {
			return err
		}
		s.private = private
		maintenance = private.server.DatabaseURL("postgres")
	}
	var err error
	if s.base, err = url.Parse(maintenance); err != nil {
		return fmt.Errorf("%s is not a URL: %w", externalURL, err)
	}
	if s.admin, err = sql.Open("postgres", maintenance); err != nil {
		return err
	}
	// Creating databases is bound by the disk: more at a time would only make each slower.
	s.admin.SetMaxOpenConns(4)
	return nil
}

// memory returns a folder in memory, or "" if the machine has none with room to spare. A new database is some three
// hundred files, which take ten times as long to create on a busy disk.
func memory() string {
	const folder, gigabyte = "/dev/shm", 1 << 30
	if os.Getenv("TMPDIR") != "" { // the user chose where temporary files go
		return ""
	}
	room, err := disk.Usage(folder)
	if err != nil || room.Fstype != "tmpfs" || room.Free < 2*gigabyte {
		return ""
	}
	if ram, err := mem.VirtualMemory(); err != nil || ram.Available < 4*gigabyte {
		return ""
	}
	return folder
}

func (s *sharedServer) url(name string) string {
	u := *s.base
	u.Path = "/" + name
	return u.String()
}

// template returns the name of the database to clone. The first caller makes it.
func (s *sharedServer) template(ctx context.Context, o options) (string, error) {
	if o.migrate == nil {
		return "template0", nil
	}
	s.mu.Lock()
	prepare, known := s.templates[o.template]
	if !known {
		name := uniqueName("template")
		prepare = sync.OnceValues(func() (string, error) { return name, s.prepare(ctx, name, o.migrate) })
		s.templates[o.template], s.made = prepare, append(s.made, name)
	}
	s.mu.Unlock()
	return prepare()
}

func (s *sharedServer) prepare(ctx context.Context, name string, migrate func(context.Context, string) error) error {
	if err := s.create(ctx, name, "template0"); err != nil {
		return err
	}
	if err := migrate(ctx, s.url(name)); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	// A database can be cloned only while it has no connections, so from here on it accepts none. The server may
	// not yet have ended the connections that migrate closed.
	if _, err := s.admin.ExecContext(ctx, `ALTER DATABASE `+pq.QuoteIdentifier(name)+` ALLOW_CONNECTIONS false`); err != nil {
		return fmt.Errorf("closing the template: %w", err)
	}
	_, err := s.admin.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name)
	if err != nil {
		return fmt.Errorf("ending the connections to the template: %w", err)
	}
	return nil
}

func (s *sharedServer) create(ctx context.Context, name, template string) error {
	_, err := s.admin.ExecContext(ctx, `CREATE DATABASE `+pq.QuoteIdentifier(name)+` TEMPLATE `+pq.QuoteIdentifier(template))
	if err != nil {
		return fmt.Errorf("creating database %s from %s: %w", name, template, err)
	}
	return nil
}

func (s *sharedServer) drop(ctx context.Context, name string) error {
	if _, err := s.admin.ExecContext(ctx, `DROP DATABASE IF EXISTS `+pq.QuoteIdentifier(name)+` WITH (FORCE)`); err != nil {
		return fmt.Errorf("dropping database %s: %w", name, err)
	}
	return nil
}

// close ends what start has started. It does nothing for the zero value.
func (s *sharedServer) close() error {
	if s.admin == nil {
		return s.private.remove()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	if s.private == nil {
		for _, name := range s.made {
			errs = append(errs, s.drop(ctx, name))
		}
	}
	errs = append(errs, s.admin.Close(), s.private.remove())
	return errors.Join(errs...)
}
