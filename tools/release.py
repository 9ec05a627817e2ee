from paddleseg_psp.commands.release import main

if __name__ == "__main__":
    main()
