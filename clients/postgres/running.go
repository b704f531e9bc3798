package postgres

import "fmt"

// RunningURL is the address of the database that a program is serving from a data folder now, password included. It
// starts nothing and takes nothing: it is for commands that look at the database beside that program.
func RunningURL(dataDir string) (string, error) {
	dataDir, err := realFolder(dataDir)
	if err != nil {
		return "", err
	}
	home, err := HomeOf(ServerConfig{DataDir: dataDir})
	if err != nil {
		return "", err
	}
	l := layout{dataDir: dataDir, home: home}
	said, ok := readPidFile(l)
	if !ok || said.port == 0 || !runs(l, said.pid) {
		return "", fmt.Errorf("no database is running in %s: start flotilla-os dev there first", dataDir)
	}
	password, err := l.readPassword(true)
	if err != nil {
		return "", err
	}
	return addressOf(said.port, password, database), nil
}
