#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use proptest::prelude::*;

use super::*;

fn drawing(data: &[u8]) -> String {
    TerminalFilter::drawing().pass(data)
}

/// What programs for terminals write to draw passes as it is.
const DRAWS: [&str; 44] = [
    "plain text, é, 漢字, 🦀\r\n\ttabbed\x08\x07\x0b\x0c\x0e\x0f",
    "\x1b[A",
    "\x1b[2B\x1b[3C\x1b[4D\x1b[E\x1b[F\x1b[7G",
    "\x1b[H",
    "\x1b[10;20H",
    "\x1b[10;20f",
    "\x1b[I\x1b[2Z",
    "\x1b[J",
    "\x1b[2J",
    "\x1b[K\x1b[1K",
    "\x1b[?J\x1b[?1K",
    "\x1b[L\x1b[5M\x1b[@\x1b[5P\x1b[6X",
    "\x1b[S\x1b[2T",
    "\x1b[5b",
    "\x1b[5`\x1b[6a\x1b[7d\x1b[8e",
    "\x1b[3g",
    "\x1b[m",
    "\x1b[1;31m",
    "\x1b[38;5;196m",
    "\x1b[38;2;1;2;3m",
    "\x1b[38:2:0:1:2:3m",
    "\x1b[4:3m",
    "\x1b[r",
    "\x1b[2;23r",
    "\x1b[s\x1b[u",
    "\x1b[4h\x1b[4l",
    "\x1b[2 q",
    "\x1b[!p",
    "\x1b[?5h",
    "\x1b[?6l",
    "\x1b[?7h",
    "\x1b[?12h\x1b[?25l",
    "\x1b[?12;25h",
    "\x1b[?47h\x1b[?1047l",
    "\x1b[?1049h",
    "\x1b[?69h\x1b[2;3s",
    "\x1b7\x1b8",
    "\x1bD\x1bE\x1bM\x1bH",
    "\x1b(B",
    "\x1b(0lqk\x1b(B",
    "\x1b)0",
    "\x1b*A\x1b+B",
    "\x1b#3\x1b#8",
    "\u{a0}\u{fffd}",
];

#[test]
fn what_draws_passes() {
    for text in DRAWS {
        assert_eq!(drawing(text.as_bytes()), text, "{text:?}");
    }
}

/// What must not reach a terminal, and what each of it would do there.
const ACTS: [(&str, &[u8]); 79] = [
    ("writes the clipboard", b"\x1b]52;c;cm0gLXJmIC8K\x07"),
    ("writes the clipboard", b"\x1b]52;c;cm0gLXJmIC8K\x1b\\"),
    ("asks for the clipboard", b"\x1b]52;c;?\x07"),
    ("writes the clipboard, 8 bits", b"\xc2\x9d52;c;cm0=\xc2\x9c"),
    ("sets the title", b"\x1b]0;title\x07"),
    ("sets the title", b"\x1b]2;title\x1b\\"),
    ("sets the icon", b"\x1b]1;icon\x07"),
    ("sets a property of X", b"\x1b]3;a=b\x07"),
    ("changes a colour", b"\x1b]4;1;#ff0000\x07"),
    ("asks for a colour", b"\x1b]4;1;?\x07"),
    ("asks for the foreground", b"\x1b]10;?\x07"),
    ("asks for the background", b"\x1b]11;?\x1b\\"),
    ("asks for the cursor's colour", b"\x1b]12;?\x07"),
    ("sets the working directory", b"\x1b]7;file://host/etc\x07"),
    ("links", b"\x1b]8;;https://example.com\x07"),
    ("notifies", b"\x1b]9;hello\x07"),
    ("notifies", b"\x1b]777;notify;a;b\x07"),
    ("chooses a font", b"\x1b]50;font\x07"),
    ("writes a log", b"\x1b]46;/tmp/log\x07"),
    ("writes a file", b"\x1b]1337;File=name=YQ==;inline=0:YQ==\x07"),
    ("copies", b"\x1b]1337;CopyToClipboard=\x07"),
    ("marks a prompt", b"\x1b]133;A\x07"),
    ("is a string of the old Linux console", b"\x1b]P1ff0000\x07"),
    ("asks for a setting", b"\x1bP$qm\x1b\\"),
    ("asks for a setting, 8 bits", b"\xc2\x90$qm\xc2\x9c"),
    ("asks for a string of terminfo", b"\x1bP+q544e\x1b\\"),
    ("restores a state", b"\x1bP1$t0;1\x1b\\"),
    ("defines keys", b"\x1bP1;1|17/78\x1b\\"),
    ("draws pictures", b"\x1bPq#0;2;0;0;0#0~~\x1b\\"),
    ("talks to tmux", b"\x1bPtmux;\x1b\x1b]52;c;YQ==\x07\x1b\\"),
    ("talks to screen", b"\x1bP\x1b]52;c;YQ==\x07\x1b\\"),
    ("is an application's command", b"\x1b_Gi=1,a=q;AAAA\x1b\\"),
    ("is a private message", b"\x1b^message\x1b\\"),
    ("is a string", b"\x1bXstring\x1b\\"),
    ("sets the title of screen", b"\x1bktitle\x1b\\"),
    ("erases what was before", b"\x1b[3J"),
    ("asks what it is", b"\x1b[c"),
    ("asks what it is", b"\x1b[0c"),
    ("asks what it is, more closely", b"\x1b[>c"),
    ("asks what it is, once more", b"\x1b[=c"),
    ("asks what it is, as of old", b"\x1bZ"),
    ("asks for its version", b"\x1b[>q"),
    ("asks how it is", b"\x1b[5n"),
    ("asks where the cursor is", b"\x1b[6n"),
    ("asks where the cursor is", b"\x1b[?6n"),
    ("asks for the printer", b"\x1b[?15n"),
    ("asks for the colours", b"\x1b[?996n"),
    ("asks for a mode", b"\x1b[4$p"),
    ("asks for a mode", b"\x1b[?2004$p"),
    ("asks for parameters", b"\x1b[x"),
    ("asks for a checksum", b"\x1b[1;1;1;1;1;1*y"),
    ("asks for keys", b"\x1b[?u"),
    ("answers", b"\x05"),
    ("asks for the title", b"\x1b[21t"),
    ("asks for the icon's title", b"\x1b[20t"),
    ("asks for sizes", b"\x1b[14t\x1b[18t\x1b[19t"),
    ("resizes", b"\x1b[8;200;300t"),
    ("moves", b"\x1b[3;0;0t"),
    ("makes an icon of it", b"\x1b[2t"),
    ("keeps titles", b"\x1b[22;0t\x1b[23;0t"),
    ("resizes", b"\x1b[?3h\x1b[?40h"),
    ("resizes", b"\x1b[132$|"),
    ("prints", b"\x1b[i\x1b[5i\x1b[?4i"),
    ("changes keys", b"\x1b[?1h\x1b=\x1b[?66h"),
    ("changes keys", b"\x1b[>4;2m"),
    ("changes keys", b"\x1b[>1u\x1b[=1u\x1b[<u"),
    ("locks the keys", b"\x1b[2h"),
    ("sends line feeds", b"\x1b[20h"),
    ("reports the mouse", b"\x1b[?9h\x1b[?1000h\x1b[?1002h\x1b[?1003h\x1b[?1006h\x1b[?1015h"),
    ("follows the mouse", b"\x1b[1;2;3;4;5T"),
    ("reports the focus", b"\x1b[?1004h"),
    ("marks what is pasted", b"\x1b[?2004h"),
    ("stops drawing", b"\x1b[?2026h"),
    ("brings modes back", b"\x1b[?1000s\x1b[?1000r"),
    ("turns on lamps", b"\x1b[1q"),
    ("leaves UTF-8", b"\x1b%@"),
    ("changes how controls are sent", b"\x1b G\x1b F"),
    ("changes rectangles", b"\x1b[65;1;1;2;2$x"),
    ("has too many parameters", b"\x1b[1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1m"),
];

#[test]
fn f4_nothing_passes_that_makes_a_terminal_act() {
    for (what, bytes) in ACTS {
        let text = [b"before ", bytes, b" after"].concat();
        for piece in 1..=text.len() {
            let mut filter = TerminalFilter::drawing();
            let passed: String = text.chunks(piece).map(|piece| filter.pass(piece)).collect();
            // What begins a string elsewhere and not here leaves its text, which is harmless without that.
            let rest = passed.strip_prefix("before ").unwrap().strip_suffix(" after").unwrap();
            assert!(!rest.contains(char::is_control), "{what}: {passed:?}");
            if bytes[0] != 0xc2 && !bytes.starts_with(b"\x1bk") {
                assert_eq!(rest, "", "{what}, in pieces of {piece}");
            }
        }
    }
}

/// Those that are hidden: within others, not ended, ended by what some terminals take for an end, cancelled.
#[test]
fn f4_nothing_passes_by_being_hidden() {
    for (hidden, expected) in [
        (&b"\x1b[\x1b]52;c;YQ==\x07x"[..], "x"),
        (b"\x1b]0;\x1b[6n\x07x", "\x07x"),
        (b"\x1b]0;a\x18\x1b[6nx", "x"),
        (b"\x1b[?25;1000;1049hx", "\x1b[?25h\x1b[?1049hx"),
        (b"\x1b[6\x1b[nx", "x"),
        (b"\x1b[6\nn x", "\n x"),
        (b"\x1b\x1b[cx", "x"),
        (b"\x9b6n", "\u{fffd}6n"),
        (b"\xff\x1b[6n\xc3", "\u{fffd}"),
        (b"\x1b[\xc2\x9b6nx", "\u{9b}6nx"),
    ] {
        let passed = drawing(hidden);
        assert!(!passed.contains('\u{9b}'), "{passed:?}");
        if !expected.contains('\u{9b}') {
            assert_eq!(passed, expected, "{hidden:?}");
        }
    }
    // One that does not end takes what follows it, as in a terminal, and no memory.
    let mut filter = TerminalFilter::drawing();
    assert_eq!(filter.pass(b"\x1b]52;c;"), "");
    for _ in 0..1000 {
        assert_eq!(filter.pass(&[b'A'; 10_000]), "");
    }
    assert_eq!(filter.pass(b"\x07shown"), "shown");
}

#[test]
fn f4_text_has_no_controls_wherever_they_are_split() {
    let input: &[u8] = b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07\x1b]52;c;aGk=\x1b\\plain\x1b(B\xc2\x9b31m\xc2\x90 caf\xc3\xa9\xc2\xa0\x7f\x08\t!\x1bP1$r\x1b\\.";
    for size in 1..input.len() {
        let mut filter = TerminalFilter::text();
        let text: String = input.chunks(size).map(|piece| filter.pass(piece)).collect();
        assert_eq!(text, "red\nplain31m café\u{a0}\t!.", "pieces of {size}");
    }
}

/// The parser that reads what has passed, and remembers only what is dangerous.
#[derive(Default)]
struct Terminal {
    acts: Vec<String>,
}

impl Perform for Terminal {
    fn execute(&mut self, byte: u8) {
        if byte == 5 || byte >= 0x7f {
            self.acts.push(format!("control {byte:#x}"));
        }
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell: bool) {
        self.acts.push(format!("OSC {params:?}"));
    }

    fn hook(&mut self, _params: &Params, _intermediates: &[u8], _ignore: bool, action: char) {
        self.acts.push(format!("DCS {action}"));
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        let asks = matches!(action, 'c' | 'n' | 't' | 'x' | 'y' | 'i')
            || action == 'p' && intermediates != b"!"
            || action == 'q' && intermediates != b" "
            || !intermediates.is_empty() && matches!(action, 'u' | 'm' | 's' | 'r');
        let modes = [1, 3, 9, 40, 66, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026];
        let mode = intermediates == b"?"
            && matches!(action, 'h' | 'l')
            && params.iter().any(|parameter| parameter.iter().any(|mode| modes.contains(mode)));
        if asks || mode {
            self.acts.push(format!("CSI {params:?} {intermediates:?} {action}"));
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        if intermediates.is_empty() && matches!(byte, b'Z' | b'=' | b'>' | b'k') {
            self.acts.push(format!("ESC {byte}"));
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let known: Vec<Vec<u8>> = ACTS
        .iter()
        .map(|(_, bytes)| bytes.to_vec())
        .chain(DRAWS.iter().map(|text| text.as_bytes().to_vec()))
        .flat_map(|bytes| (1..=bytes.len()).map(move |len| bytes[..len].to_vec()))
        .collect();
    let piece = prop_oneof![
        3 => proptest::sample::select(known),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
        1 => proptest::sample::select(vec![b"\x1b".to_vec(), b"\x1b[?".to_vec(), b";".to_vec(), b"\x18".to_vec()]),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// Whatever comes, in whatever pieces: what passes makes a terminal draw.
    #[test]
    fn f4_no_mixture_passes_that_makes_a_terminal_act(bytes in pieces(), size in 1usize..20) {
        let mut filter = TerminalFilter::drawing();
        let passed: String = bytes.chunks(size).map(|piece| filter.pass(piece)).collect();
        let mut terminal = Terminal::default();
        Parser::<1024>::new().advance(&mut terminal, passed.as_bytes());
        prop_assert_eq!(terminal.acts, Vec::<String>::new(), "{:?}", passed);
        // Nor does it matter how it was split.
        prop_assert_eq!(&passed, &drawing(&bytes));
        // What has passed passes again.
        prop_assert_eq!(drawing(passed.as_bytes()), passed);
    }
}

#[test]
fn a_reset_is_drawn_and_takes_nothing_of_the_viewers() {
    let reset = "\x1b[?6l\x1b[?69l\x1b[r\x1b[H\x1b[2J";
    assert_eq!(drawing(b"\x1bc"), format!("{NORMAL}{reset}"));
    let text = drawing(b"\x1b[?1049h\x1bc");
    assert_eq!(text, format!("\x1b[?1049h{NORMAL}\x1b[?1049l{reset}"));
}

#[test]
fn a_terminal_is_brought_back_to_normal() {
    let after = |text: &[u8]| {
        let mut filter = TerminalFilter::drawing();
        filter.pass(text);
        filter.restore()
    };
    assert_eq!(after(b"text"), NORMAL);
    assert_eq!(after(b"\x1b[?1049h"), format!("{NORMAL}\x1b[?1049l"));
    assert_eq!(after(b"\x1b[?1049;1000h\x1b[?1049l"), NORMAL);
    for margins in [&b"\x1b[2;9r"[..], b"\x1b[?6h", b"\x1b[?6;1000h\x1b[?69h"] {
        assert!(after(margins).contains("\x1b[r"), "{margins:?}");
    }
}
