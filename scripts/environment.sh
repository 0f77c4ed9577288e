# Sourced by quickstart, test and check: finds a Python, makes an environment, installs, and says what is missing.
# JAXINIT_PYTHON chooses the Python, JAXINIT_VENV the folder of the environment (default: .venv),
# JAXINIT_ACCELERATOR what JAX is installed for (cuda13, cuda12, tpu, none; default: what is found here).

oldest=11           # Python 3.x
needs_mib=1800      # the environment with everything in it, and some room

fail() {
  printf 'jaxinit: %s\n' "$@" >&2
  exit 1
}

suits() { # whether a command is a Python that jaxinit runs on
  "$1" -c "import sys, venv; sys.exit(sys.version_info[:2] < (3, $oldest))" >/dev/null 2>&1
}

pythons() { # every suitable Python found: the default first, then the newest
  local candidate
  for candidate in python3 python python3.{19..11} \
    "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.{19..11}.*/bin/python3; do
    if command -v "$candidate" >/dev/null 2>&1 && suits "$candidate"; then
      "$candidate" -c 'import sys; print(sys.executable)'
    fi
  done | awk '!seen[$0]++'
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

newest_python() {
  local candidate
  while read -r candidate; do
    printf '%s %s\n' "$(version_of "$candidate")" "$candidate"
  done < <(pythons) | sort -t. -k2,2nr -s | head -n 1 | cut -d' ' -f2-
}

accelerator() { # the extra for this machine's accelerator: cuda13, cuda12, tpu, or nothing
  local asked=${JAXINIT_ACCELERATOR:-} driver capability
  case $asked in
    "") ;;
    none) return ;;
    cuda12 | cuda13 | tpu)
      echo "$asked"
      return
      ;;
    *) fail "JAXINIT_ACCELERATOR is cuda13, cuda12, tpu or none, got $asked." ;;
  esac
  if driver=$(nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null | head -n 1) &&
    [ -n "$driver" ]; then
    capability=${driver#*, }
    driver=${driver%%.*}
    # CUDA 13 needs driver 580 and compute capability 7.5, CUDA 12 driver 525.
    if [ "$driver" -ge 580 ] && [ "${capability/./}" -ge 75 ]; then
      echo cuda13
    elif [ "$driver" -ge 525 ]; then
      echo cuda12
    else
      echo "jaxinit: the NVIDIA driver $driver is too old for JAX, which needs 525 or later: on the CPU then" >&2
    fi
  elif [ -e /dev/accel0 ]; then
    echo tpu
  fi
}

ready() { # ready EXTRA STAMP: whether EXTRA has been installed into $venv, by itself or among others
  local file
  for file in "$venv"/.ready-*; do
    if [[ -z $1 || ",${file##*/.ready-}," == *",$1,"* ]] && [ "$(cat "$file" 2>/dev/null)" = "$2" ]; then
      return
    fi
  done
  return 1
}

prepare() { # prepare EXTRA: an environment in $venv with jaxinit and EXTRA ("", "dev", "dev,parity"); skips what is done
  local extra=$1 found python=${JAXINIT_PYTHON:-} target=. stamp free log
  venv=${JAXINIT_VENV:-.venv}
  found=$(accelerator)
  extra=${extra:+$extra${found:+,}}$found
  [ -n "$extra" ] && target=".[$extra]"
  stamp="$(cat pyproject.toml constraints.txt | cksum) $PWD"
  if [ -x "$venv/bin/python" ] && ready "$extra" "$stamp"; then
    return
  fi

  free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
  [ "$free" -ge "$needs_mib" ] || [ -x "$venv/bin/python" ] || fail \
    "not enough space: the environment needs about $needs_mib MiB in $PWD, and $free MiB are free." \
    "Free some, or set JAXINIT_VENV to a folder on a larger disk."

  if [ ! -x "$venv/bin/python" ]; then
    if command -v uv >/dev/null 2>&1; then
      uv venv --quiet --seed --python "${python:->=3.$oldest}" "$venv" || fail \
        "uv found no Python 3.$oldest or later and could not get one." \
        "With a network: uv python install 3.13; or set JAXINIT_PYTHON to one that is installed."
    else
      [ -n "$python" ] || python=$(pythons | head -n 1)
      [ -n "$python" ] || fail \
        "no suitable Python: jaxinit needs 3.$oldest or later with the venv module, and none was found." \
        "Install one (Debian: apt-get install python3 python3-venv; or pyenv install 3.13; or install uv)," \
        "or set JAXINIT_PYTHON to its path."
      suits "$python" || fail "JAXINIT_PYTHON=$python is not a Python 3.$oldest or later with the venv module."
      echo "Making $venv with Python $(version_of "$python") ..."
      "$python" -m venv "$venv" || fail "could not make the environment $venv (Debian: apt-get install python3-venv)."
    fi
  fi

  echo "Installing jaxinit and what it needs into $venv (about a minute on a fast network) ..."
  log=$venv/install.log
  # Bytecode is compiled now, whatever the environment says: without it every import costs seconds.
  if command -v uv >/dev/null 2>&1; then
    uv pip install --quiet --compile-bytecode --python "$venv/bin/python" -c constraints.txt -e "$target" >"$log" 2>&1
  else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --compile \
      -c constraints.txt -e "$target" >"$log" 2>&1
  fi || {
    tail -n 5 "$log" >&2
    fail "installation failed (the end of $log is above)." \
      "Most often there is no network or the package index cannot be reached: check the connection and the proxy" \
      "(https_proxy), or point pip at a mirror (PIP_INDEX_URL), and run this command again."
  }
  "$venv/bin/python" -m compileall -q jaxinit
  echo "$stamp" >"$venv/.ready-$extra"
}

run_where_asked() { # run_where_asked SCRIPT OPTIONS...: back in the caller's folder, where paths in the options are meant
  local python script
  python=$(realpath -s "$venv/bin/python") # its folder is what makes it the environment's
  script=$PWD/scripts/$1
  cd "$OLDPWD"
  exec "$python" "$script" "${@:2}"
}
